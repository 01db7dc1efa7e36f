"""Random weights for a slot: a new draw, or one on the way from a model to a new draw."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import SettingError
from ..core.seeds import derive
from ..core.workspace import Workspace
from ..models.body import Body
from ..models.fresh import between, redrawn


@dataclass(frozen=True)
class Fresh:
    """The architecture of a slot with weights drawn anew: nothing that it learnt is left.

    Args:
        slot: Whose architecture, tokenizer and precision.
        draw: Tells several draws of a run apart; they derive from the run's seed.
    """

    slot: str
    draw: str = "fresh"

    def __call__(self, workspace: Workspace) -> Body:
        """The model."""
        return redrawn(workspace.models[self.slot], derive(workspace.seed, "weights", self.draw) % (1 << 63))


@dataclass(frozen=True)
class Towards:
    """A model on the way from a slot's weights to a new draw of its architecture, of the variance of both.

    Args:
        slot: Where it starts, at ``away`` 0; random weights, or the variance means nothing.
        away: In [0, 1]; 1 is the new draw alone.
        draw: Tells several draws of a run apart.

    Source: arXiv:2302.12091.
    """

    slot: str
    away: float
    draw: str = "towards"

    def __post_init__(self) -> None:
        if not 0 <= self.away <= 1:
            raise SettingError(
                "Towards.away", got=str(self.away), expected="a share in [0, 1]", remedy="0 is the slot's own weights."
            )

    def __call__(self, workspace: Workspace) -> Body:
        """The model."""
        return between(workspace.models[self.slot], Fresh(self.slot, self.draw)(workspace), self.away)
