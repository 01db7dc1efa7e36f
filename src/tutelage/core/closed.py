"""What the loss node asks of a signal that knows its own gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .scores import Head, Held, Scores

if TYPE_CHECKING:
    from .context import Tile
    from .signal import Read, Signal


class Slope(Protocol):
    """``(tile, logits Float[k C]) -> values Float[k], d value / d logits Float[k C]``.

    Logits are those of the learner's read, scaled and capped, not normalised; they may not be written to. The slope is
    a tensor of its own. A value that is not a number asks for the general road.

    ``fused(tile, own, scores, coefficients)``, if it has one, does all of it at once where it can: it gives the values,
    or None, and overwrites the tile's rows of ``own.raw`` with the weighted slope. ``scores`` are those of the
    learner's read: ``own`` itself, or what is mapped over it.
    """

    def __call__(self, tile: Tile, logits: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Closed:
    """A signal's closed form.

    Args:
        learner: The read whose logits get the gradient; everything else that the form reads is fixed.
        slope: Values and slopes of a tile.
        others: The other reads that the form compares with.
    """

    learner: Read
    slope: Slope
    others: tuple[Read, ...] = ()


@dataclass(frozen=True)
class Times:
    """A slope times numbers a unit that have no gradient.

    Args:
        slope: The slope.
        factors: Signals without gradient.
    """

    slope: Slope
    factors: tuple[Signal, ...]

    def __call__(self, tile: Tile, logits: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = self.slope(tile, logits)
        factor = self._factor(tile).to(slope.dtype)
        return value * factor, slope.mul_(factor.unsqueeze(-1))

    def fused(self, tile: Tile, own: Held, scores: Scores, coefficients: Tensor) -> Tensor | None:
        """As the slope's own, if it has one."""
        inner: Any = getattr(self.slope, "fused", None)
        if inner is None:
            return None
        factor = self._factor(tile).to(coefficients.dtype)
        value = inner(tile, own, scores, coefficients * factor)
        return None if value is None else value * factor.to(value.dtype)

    def _factor(self, tile: Tile) -> Tensor:
        tile = tile.aside()  # what is remembered of these scores has no gradient
        total = tile.still(self.factors[0])
        for factor in self.factors[1:]:
            total = total * tile.still(factor)
        return total.expand(tile.index.shape)


def through_squash(slope: Tensor, logits: Tensor, head: Head) -> Tensor:
    """A slope in logits as one in the raw ones below scale and cap, in place."""
    if head.cap is not None:
        slope.mul_(1 - (logits / head.cap).square_())
    return slope.mul_(head.scale) if head.scale != 1.0 else slope


def is_number(values: Tensor) -> bool:
    """Whether no value is nan."""
    return not bool(torch.isnan(values).any())
