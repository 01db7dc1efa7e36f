"""What the loss node asks of a signal that knows its own gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from .scores import Head

if TYPE_CHECKING:
    from .context import Tile
    from .signal import Read


class Slope(Protocol):
    """``(tile, logits Float[k C]) -> values Float[k], d value / d logits Float[k C]``.

    Logits are those of the learner's read, scaled and capped, not normalised; they may not be written to. The slope is
    a tensor of its own. A value that is not a number asks for the general road.

    ``fused``, if it has one, does all of it at once where it can: it gives the values, or None, and overwrites the
    tile's rows of ``own.raw`` with the weighted slope.
    """

    def __call__(self, tile: Tile, logits: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Closed:
    """A signal's closed form.

    Args:
        learner: The read whose logits get the gradient; everything else that the form reads is fixed.
        slope: Values and slopes of a tile.
    """

    learner: Read
    slope: Slope


def through_squash(slope: Tensor, logits: Tensor, head: Head) -> Tensor:
    """A slope in logits as one in the raw ones below scale and cap, in place."""
    if head.cap is not None:
        slope.mul_(1 - (logits / head.cap).square_())
    return slope.mul_(head.scale) if head.scale != 1.0 else slope


def is_number(values: Tensor) -> bool:
    """Whether no value is nan."""
    return not bool(torch.isnan(values).any())
