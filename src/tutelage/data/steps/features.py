"""Features: a row takes along what a model makes of its text, for a probe to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

import torch

from ...core.errors import SettingError
from ...core.record import Record
from ...core.workspace import Workspace
from ...models.causal import resting
from ..collate import Collate

LONGEST = 1 << 20


@dataclass(frozen=True)
class Features:
    """Writes the mean over a row's tokens of a model's final states as a field, a list of numbers.

    The states are those before the head, so the probe reads what the model knows and not what it says. Every piece of
    the row is read; the model is in eval mode.

    Args:
        slot: The model slot.
        name: The field.
        batch_size: Rows read at once.
    """

    slot: str = "student"
    name: str = "features"
    batch_size: int = 32
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SettingError(
                "Features.batch_size", got=str(self.batch_size), expected="at least 1", remedy="32 is usual."
            )

    def slots(self) -> frozenset[str]:
        """The slot whose weights the rows depend on."""
        return frozenset({self.slot})

    def asks(self) -> tuple[tuple[str, str], ...]:
        """What it needs of whom."""
        return ((self.slot, "pooled"),)

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows, with the field."""
        model = ws.models[self.slot]
        collate = Collate(model.tokenizer, model.max_positions or LONGEST)
        while rows := list(islice(records, self.batch_size)):
            read = [replace(r, pieces=tuple(replace(p, trains=True) for p in r.pieces)) for r in rows]
            with torch.no_grad(), resting(model.model):
                batch = collate(read).to(model.device)
                values = model.predict(batch.views["main"], frozenset({"pooled"}))["pooled"].float().cpu().tolist()
            for row, value in zip(rows, values, strict=True):
                yield replace(row, fields={**row.fields, self.name: value})
