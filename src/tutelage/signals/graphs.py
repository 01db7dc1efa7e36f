"""Graphs over the tokens of a batch: how close each is to its neighbours, and to the same token of another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.errors import SettingError
from ..core.schedule import Schedule, value_at
from ..core.signal import Couples, Read, Signal

TINY = 1e-12


@dataclass(frozen=True)
class NeighbourGraph(Signal):
    """``KL(softmax_j A_p || softmax_j A_q)`` over the k nearest neighbours of each drawn token, 0 for the others.

    ``A_ij = exp(-|x_i - x_j|^2 / (2 v)) / temperature`` on each side, v that side's mean squared distance between
    neighbours, without gradient; neighbours are those of p. Turning or scaling the space of q changes nothing. Drawn
    are ``most`` units of the batch; tokens that p holds at the same place as an earlier one are left out.

    Args:
        q: The learner's features.
        p: The features that are matched; they get no gradient.
        num_neighbours: k, >= 1.
        most: Units that are drawn; the graph is worked out from all pairs of them.
        temperature: > 0; 1 is the published, nearly flat form.
        reverse: ``KL(A_q || A_p)`` instead.

    Source: arXiv:2306.12442.
    """

    q: Read
    p: Read
    num_neighbours: int = 8
    most: int = 512
    temperature: float = 1.0
    reverse: bool = False
    couples: ClassVar[Couples] = Couples.BATCH

    def __post_init__(self) -> None:
        if self.num_neighbours < 1 or self.most < 2 or not self.temperature > 0:
            raise SettingError(
                "NeighbourGraph",
                got=f"num_neighbours={self.num_neighbours}, most={self.most}, temperature={self.temperature}",
                expected="a neighbour, two units and a temperature > 0",
                remedy="8, 512 and 1 are usual.",
            )

    def __call__(self, ctx: Asks) -> Tensor:
        q, p = ctx.features(self.q), ctx.features(self.p).detach()
        chosen = distinct(p, drawn(ctx, len(p), self.most))
        out = q.new_zeros(len(q))
        k = min(self.num_neighbours, len(chosen) - 1)
        if k < 1:
            return out + 0 * q.sum()
        near = neighbours(p[chosen], k)
        sides = [closeness(x[chosen], near) / self.temperature for x in ((p, q) if not self.reverse else (q, p))]
        first, second = (side.log_softmax(-1) for side in sides)
        return out.index_add(0, chosen, (first.exp() * (first - second)).sum(-1) * (len(q) / len(chosen)))


@dataclass(frozen=True)
class SameToken(Signal):
    """``-log softmax_j cos(q_i, p_j) / temperature`` at j = i over drawn tokens of the batch, 0 for the others.

    Args:
        q: The learner's features, mapped to the width of p where they differ.
        p: The features among which each has to be found; they get no gradient.
        most: Units that are drawn, the same as a ``NeighbourGraph`` of the same number draws.
        temperature: A number or a schedule, > 0.

    Source: arXiv:2306.12442.
    """

    q: Read
    p: Read
    most: int = 512
    temperature: float | Schedule = 0.1
    couples: ClassVar[Couples] = Couples.BATCH

    def __call__(self, ctx: Asks) -> Tensor:
        q, p = ctx.features(self.q), ctx.features(self.p).detach()
        chosen = distinct(p, drawn(ctx, len(p), self.most))
        unit = torch.nn.functional.normalize
        logits = unit(q[chosen], dim=-1) @ unit(p[chosen], dim=-1).T / value_at(self.temperature, ctx.progress)
        own = -logits.log_softmax(-1).diagonal() * (len(q) / max(1, len(chosen)))
        return q.new_zeros(len(q)).index_add(0, chosen, own)


@dataclass(frozen=True)
class SelfSimilarity(Signal):
    """The mean squared difference of ``softmax(F F^T / sqrt D)`` within each record, by unit: Float[U].

    Each side's own width D scales its products, so the sides may differ in it. The mean over a record's units is the
    mean over its pairs.

    Args:
        q: The learner's features.
        p: The features that are matched; they get no gradient.

    Source: arXiv:2306.12442.
    """

    q: Read
    p: Read
    couples: ClassVar[Couples] = Couples.ROW

    def __call__(self, ctx: Asks) -> Tensor:
        q, p = ctx.features(self.q), ctx.features(self.p).detach()
        row = ctx.batch.units[self.q.over].row
        found, sizes = [], torch.bincount(row, minlength=ctx.batch.num_rows).tolist()
        for a, b in zip(q.split(sizes), p.split(sizes), strict=True):  # units of a row are neighbours
            own, other = ((x @ x.T / x.shape[-1] ** 0.5).softmax(-1) for x in (a, b))
            found.append((own - other).square().mean(-1))
        return torch.cat(found)


def drawn(ctx: Asks, count: int, most: int) -> Tensor:
    """Up to ``most`` of ``count`` units, drawn by the step and the records, in order: Int[M]."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=ctx.generator("graph"))[:most].sort().values


def distinct(x: Tensor, chosen: Tensor) -> Tensor:
    """Those of the chosen units whose features no earlier one has: Int[M']."""
    chosen = chosen.to(x.device)
    _, inverse = torch.unique(x[chosen], dim=0, return_inverse=True)
    places = torch.arange(len(chosen), device=x.device)
    first = torch.full((int(inverse.max()) + 1 if len(chosen) else 0,), len(chosen), device=x.device)
    first = first.scatter_reduce(0, inverse, places, "amin")
    return chosen[first.sort().values]


def neighbours(x: Tensor, k: int) -> Tensor:
    """The k nearest others of each: Int[M k]."""
    apart = torch.cdist(x.double(), x.double())
    return apart.fill_diagonal_(torch.inf).topk(k, largest=False).indices


def closeness(x: Tensor, near: Tensor) -> Tensor:
    """``exp(-|x_i - x_j|^2 / (2 v))`` to neighbours j, v their mean squared distance: Float[M k]."""
    squares = (x.unsqueeze(1) - x[near]).square().sum(-1)
    return torch.exp(-squares / (2 * squares.mean().detach() + TINY))
