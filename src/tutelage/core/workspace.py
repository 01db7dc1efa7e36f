"""The workspace: everything a run holds, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import unknown
from .ledger import Ledger


class Slots(dict[str, Any]):
    """Named things; asking for a name that is not there lists what is."""

    def __init__(self, noun: str, items: Mapping[str, Any] | None = None) -> None:
        super().__init__(items or {})
        self.noun = noun

    def __missing__(self, name: str) -> Any:
        raise unknown(f"workspace {self.noun}", name, self)

    def names(self) -> Iterator[str]:
        """Names in order."""
        return iter(sorted(self))


@dataclass
class Workspace:
    """Named models, data sets and results, the ledger, the run's folder and its seed.

    Args:
        folder: Where the run writes; file names from data never leave it.
        seed: The one seed that all draws derive from.
        path: Names that set the draws of one round apart from another's.
        caches: What teachers said before, by slot.
        head_bytes: What a chunk's logits may take in a loss, all models together; None leaves it to the device.
    """

    folder: Path
    seed: int = 0
    models: Slots = field(default_factory=lambda: Slots("model"))
    data: Slots = field(default_factory=lambda: Slots("data set"))
    results: Slots = field(default_factory=lambda: Slots("result"))
    ledger: Ledger = field(default_factory=Ledger)
    path: tuple[object, ...] = ()
    head_bytes: int | None = None
    caches: Slots = field(default_factory=lambda: Slots("teacher cache"))

    def within(self, *names: object) -> Workspace:
        """The same workspace, its draws seeded under a path of names such as (stage, round)."""
        return replace(self, path=names)
