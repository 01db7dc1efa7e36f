"""Scores whose logits are a function of other scores' logits, unit by unit: still lazy, and still with closed forms.

A divergence that knows its slope in the logits it is given needs only that slope carried back to the logits below, a
row at a time. So a temperature of each position's own, or logits brought to one scale, cost no general road.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .scores import Chunk, Rows, Scores, Wrapped


class Mapped(Wrapped):
    """Other logits of the same units over the same categories; a subclass says which, and carries slopes back."""

    of: Scores

    @abstractmethod
    def map(self, logits: Tensor, rows: Rows) -> Tensor:
        """The logits that those below give: Float[k C]."""

    @abstractmethod
    def back(self, slope: Tensor, logits: Tensor, rows: Rows) -> Tensor:
        """``d value / d logits below`` of the slope ``d value / d logits`` Float[k C], which may be written to.

        Args:
            slope: In what ``map`` gave.
            logits: What ``map`` was given.
            rows: The range of units.
        """

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.of.num_categories

    @property
    def below(self) -> tuple[Scores, ...]:
        return (self.of,)

    def logits(self, rows: Rows) -> Tensor:
        return self.map(self.of.logits(rows), rows)

    def at(self, rows: Rows) -> Tensor:
        return self.logits(rows).log_softmax(-1)

    def top(self, rows: Rows, k: int) -> tuple[Tensor, Tensor]:
        logits = self.logits(rows)
        found = logits.topk(min(k, self.num_categories), dim=-1)
        return found.values - logits.logsumexp(-1, keepdim=True), found.indices

    @property
    def bottom(self) -> Scores:
        """The scores below all maps."""
        return self.of.bottom if isinstance(self.of, Mapped) else self.of

    def down(self, slope: Tensor, rows: Rows) -> Tensor:
        """A slope in these logits as one in those of the bottom."""
        slope = self.back(slope, self.of.logits(rows), rows)
        return self.of.down(slope, rows) if isinstance(self.of, Mapped) else slope


@dataclass(frozen=True, eq=False)
class Divided(Mapped):
    """Logits divided by a number of each unit's own: ``z_u / t_u``.

    Args:
        of: Scores over U units.
        by: Float[U], > 0; no gradient reaches it.
    """

    of: Scores
    by: Tensor

    def over(self, below: Sequence[Scores]) -> Scores:
        return Divided(below[0], self.by)

    def held(self, index: slice | Tensor) -> Scores:
        return Divided(self.of.held(index), self.by[index])

    def with_leaves(self, held: Chunk) -> Scores:
        return Divided(self.of.with_leaves(held), self.by[held.index])

    def map(self, logits: Tensor, rows: Rows) -> Tensor:
        return logits / self.by[rows].to(logits.dtype).unsqueeze(-1)

    def back(self, slope: Tensor, logits: Tensor, rows: Rows) -> Tensor:
        return slope.div_(self.by[rows].to(slope.dtype).unsqueeze(-1))


@dataclass(frozen=True, eq=False)
class Standard(Mapped):
    """Logits of mean 0 and standard deviation ``1 / temperature`` over a unit's categories, with their gradient.

    ``y = (z - mean z) / (s + 1e-7) / temperature`` with ``s^2 = sum (z - mean z)^2 / (C - 1)``. Categories that are
    excluded (a logit of -inf) count in neither.

    Args:
        of: Scores over U units.
        temperature: > 0.
    """

    of: Scores
    temperature: float = 1.0

    def over(self, below: Sequence[Scores]) -> Scores:
        return Standard(below[0], self.temperature)

    def map(self, logits: Tensor, rows: Rows) -> Tensor:
        centred, deviation, _, real = _spread(logits)
        out = centred / ((deviation + EPSILON) * self.temperature)
        # only now: 0 times an infinity would reach the deviation's gradient
        return out if real is None else out.masked_fill(~real, -torch.inf)

    def back(self, slope: Tensor, logits: Tensor, rows: Rows) -> Tensor:
        centred, deviation, number, real = _spread(logits)
        slope = slope if real is None else slope.masked_fill_(~real, 0.0)
        slope.sub_(slope.sum(-1, keepdim=True) / number)
        along = (slope * centred).sum(-1, keepdim=True)
        # how far the deviation itself moves; at a deviation of 0 there is nothing to carry
        moved = along / ((deviation + EPSILON) * (deviation * (number - 1)).clamp_min(torch.finfo(slope.dtype).tiny))
        slope.sub_(centred.mul_(moved)).div_((deviation + EPSILON) * self.temperature)
        return slope if real is None else slope.masked_fill_(~real, 0.0)


EPSILON = 1e-7
"""Keeps a row of equal logits at 0."""


def _spread(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Logits less their mean (0 where excluded), their deviation and number Float[k 1], and which are not excluded.

    None in the last place where all are real.
    """
    real = ~torch.isneginf(logits)
    if bool(real.all()):
        number = torch.full_like(logits[:, :1], logits.shape[-1])
        centred, found = logits - logits.mean(-1, keepdim=True), None
    else:
        number, found = real.sum(-1, keepdim=True).to(logits.dtype), real
        finite = logits.masked_fill(~real, 0.0)
        centred = (finite - finite.sum(-1, keepdim=True) / number).masked_fill(~real, 0.0)
    squares = centred.square().sum(-1, keepdim=True) / (number - 1).clamp_min(1)
    return centred, _root(squares), number, found


def _root(squares: Tensor) -> Tensor:
    """The square root, with a gradient of 0 at 0."""
    positive = squares > 0
    return torch.where(positive, squares, torch.ones_like(squares)).sqrt() * positive
