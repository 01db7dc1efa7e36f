"""A chain of steps as one step that an engine runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ...core.errors import SettingError
from ...core.record import Record
from ...core.workspace import Workspace
from ..collate import split
from ..pipeline import reads_of
from .local import Batches, Engine, Local


@dataclass(frozen=True)
class Spread:
    """Runs steps batch by batch on an engine; what comes out does not depend on the engine.

    Args:
        steps: The chain; none of them may read the whole data set.
        engine: Where it runs; no part of what the rows depend on.
        batch_size: Records that are run together; groups stay whole where a step reads groups.

    Raises:
        SettingError: A step that reads the whole data set, or a size below 1.
    """

    steps: tuple[Any, ...]
    engine: Engine = field(default_factory=Local, repr=False, compare=False)
    batch_size: int = 32

    def __post_init__(self) -> None:
        whole = [step for step in self.steps if reads_of(step) == "whole"]
        if whole or self.batch_size < 1:
            raise SettingError(
                "Spread",
                got=f"{whole[0]!r}, which reads the whole data set" if whole else f"batch_size={self.batch_size}",
                expected="steps that read rows or groups, and batches of 1 or more",
                remedy="Put that step behind the others." if whole else "32 is usual.",
            )

    @property
    def reads(self) -> str:
        """Groups are only known to be whole when all rows are there."""
        return "whole" if any(reads_of(step) == "group" for step in self.steps) else "row"

    def slots(self) -> frozenset[str]:
        """The model slots whose weights the rows depend on."""
        return frozenset[str]().union(*(step.slots() for step in self.steps if hasattr(step, "slots")))

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows that come out of the chain, in order."""
        batches = split(list(records), self.batch_size) if self.reads == "whole" else self._batches(records)
        for rows in self.engine(self.steps, batches, ws):
            yield from rows

    def _batches(self, records: Iterator[Record]) -> Batches:
        while batch := list(islice(records, self.batch_size)):
            yield batch
