"""Copy: a model as it is now, for a slot of its own."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.workspace import Workspace
from ..models.adapter import merged
from ..models.causal import Causal


@dataclass(frozen=True)
class Copy:
    """The weights of a slot as they are now, an adapter added to them; what trains later moves the slot, not this.

    Args:
        slot: The model slot. It is written to the run's folder as a plain model and loaded from there.
    """

    slot: str

    def __call__(self, workspace: Workspace) -> Causal:
        return merged(workspace.models[self.slot])
