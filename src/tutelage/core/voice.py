"""The simplest voice: a model slot that speaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .context import Context
from .errors import unknown


@dataclass(frozen=True)
class Says:
    """What a model says, reading one view of the records.

    Args:
        slot: The model slot.
        sees: The view it reads.
    """

    slot: str
    sees: str = "main"

    def slots(self) -> frozenset[str]:
        """The slot its answer depends on."""
        return frozenset({self.slot})

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        """The wanted fields over the batch's units."""
        if self.sees not in ctx.batch.views:
            raise unknown("view", self.sees, ctx.batch.views)
        view = ctx.batch.views[self.sees]
        model = ctx.workspace.models[self.slot]
        with ctx.workspace.ledger.timed(self.slot, "predict", tokens=int(view.inputs["input_ids"].numel())):
            return model.predict(view, wants)
