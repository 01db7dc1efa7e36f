"""A band of a teacher: the categories between two quantiles of its mass, by bounds that a trained part gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.context import Asks
from ..core.errors import SettingError
from ..core.scores import Scores
from ..core.signal import Read, Signal, Still
from .lenses import Project

SOFT = 0.02  # the width of an edge, in mass
REACH = 20 * SOFT  # how far the ends 0 and 1 lie outside, so that a band of all keeps all


class Bounds(nn.Module):
    """Bounds Float[U 2], ``0 <= low < high <= 1``, from the k largest probabilities of each unit, Float[U K].

    Two layers; at first it keeps nearly everything.

    Args:
        width: K.
        hidden: Width of the layer between.
    """

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, 2)
        nn.init.normal_(self.outer.weight, std=0.01)
        with torch.no_grad():
            self.outer.bias.copy_(torch.tensor([-4.0, 4.0]))

    def forward(self, probabilities: Tensor) -> Tensor:
        """The bounds; the upper one is a share of what the lower one leaves."""
        low, share = self.outer(torch.tanh(self.inner(probabilities))).sigmoid().unbind(-1)
        return torch.stack([low, low + (1 - low) * share], -1)


@dataclass(frozen=True)
class Largest:
    """A lens: the k largest probabilities of each unit in falling order, without gradient: Float[U K].

    Args:
        k: How many; smaller vocabularies are filled up with 0.
        chunk: Units worked on at once; memory only.
    """

    k: int
    chunk: int = 256

    def __call__(self, value: Scores, ctx: Any) -> Tensor:
        found = []
        with torch.no_grad():
            for start in range(0, len(value), self.chunk):
                held = value.held(slice(start, start + self.chunk))
                top = held.top(slice(None), self.k)[0].exp()
                found.append(nn.functional.pad(top, (0, self.k - top.shape[-1])))
        return torch.cat(found) if found else torch.zeros(0, self.k)


@dataclass(frozen=True)
class Edge(Signal):
    """One bound of each unit: Float[U].

    Args:
        of: The bounds, Float[U 2].
        side: 0 for the lower, 1 for the upper.
    """

    of: Read
    side: int

    def __call__(self, ctx: Asks) -> Tensor:
        return ctx.features(self.of)[..., self.side]


def kept_share(log_p: Tensor, low: Tensor, high: Tensor, target: Tensor) -> Tensor:
    """How much of each category a band keeps, in [0, 1]: Float[... C].

    ``sigmoid((F - l) / h) sigmoid((u - F) / h)`` with F the mass of the more probable categories, h = 0.02 and the
    bounds stretched so that 0 and 1 lie well outside; the target is kept whole.
    """
    ordered, order = log_p.exp().sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    low, high = (low * (1 + REACH) - REACH).unsqueeze(-1), (high * (1 + REACH)).unsqueeze(-1)
    share = torch.sigmoid((before - low) / SOFT) * torch.sigmoid((high - before) / SOFT)
    share = torch.zeros_like(share).scatter(-1, order, share)
    return share.scatter(-1, target.unsqueeze(-1), 1.0)


def band_divergence(log_q: Tensor, log_p: Tensor, share: Tensor, least: float, outside: float) -> Tensor:
    """``KL(p' || q') + max(0, least - p(kept)) - outside log q(kept)``, both sides kept in part and renormalised."""
    log_share = share.clamp_min(torch.finfo(share.dtype).tiny).log()
    log_a, log_b = log_p + log_share, log_q + log_share
    mass, own = log_a.logsumexp(-1), log_b.logsumexp(-1)
    log_a, log_b = log_a - mass.unsqueeze(-1), log_b - own.unsqueeze(-1)
    value = torch.where(share > 0, log_a.exp() * (log_a - log_b), torch.zeros_like(log_a)).sum(-1)
    return value + (least - mass.exp()).clamp_min(0) - outside * own


@dataclass(frozen=True)
class BandKl(Signal):
    """The divergence of two sides within a band of p, at each unit; the bounds get no gradient here.

    Args:
        low: The lower bound of each unit.
        high: The upper one.
        least: Mass of p that the band should keep, in [0, 1]; what is missing is added to the value.
        outside: Times ``-log q(kept)``, >= 0: what q puts outside, which renormalising forgives.
        q: The learner's side.
        p: The side that is matched; it gets no gradient.
        by: What is given: -1 the value, 0 or 1 its derivative in the lower or upper bound.
    """

    low: Signal
    high: Signal
    least: float = 0.5
    outside: float = 0.0
    q: Read = Read("student")
    p: Read = Read("teacher")
    by: int = -1

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1 or self.outside < 0:
            raise SettingError(
                "BandKl",
                got=f"least={self.least}, outside={self.outside}",
                expected="least in [0, 1], outside >= 0",
                remedy="0.5 and 0 are usual.",
            )

    def __call__(self, ctx: Asks) -> Tensor:
        log_q, log_p = ctx.log_probs(self.q), ctx.log_probs(self.p).detach()
        # asked for as they stand in the tree: a sweep would remember a bare bound without its gradient
        low, high = (ctx(edge).to(log_q.dtype) for edge in self.children())
        target = ctx.target(self.q.over)
        if self.by < 0:
            return band_divergence(log_q, log_p, kept_share(log_p, low, high, target), self.least, self.outside)
        with torch.enable_grad():
            edges = [edge.clone().requires_grad_() for edge in (low, high)]
            share = kept_share(log_p, edges[0], edges[1], target)
            value = band_divergence(log_q.detach(), log_p, share, self.least, self.outside)
            return torch.autograd.grad(value.sum(), edges[self.by])[0]

    def children(self) -> tuple[Signal, ...]:
        return (Still(self.low), Still(self.high))


def learned_band(part: str, width: int, least: float = 0.5, outside: float = 0.0) -> Signal:
    """A ``BandKl`` whose bounds a trained part ``Bounds`` gives, with their gradient beside the learner's.

    The value is that of ``BandKl``; the bounds' gradient is their derivative times what they moved, so that no unit's
    distribution need be kept for the backward pass.

    Args:
        part: The slot of the part; name it in ``moves``.
        width: Probabilities of the teacher that it reads.
        least: Mass of p that the band should keep, in [0, 1].
        outside: Times ``-log q(kept)``, >= 0.
    """
    read = Read("teacher", through=(Largest(width), Project(part)))
    low, high = Edge(read, 0), Edge(read, 1)
    value = BandKl(low, high, least, outside)
    for side, edge in enumerate((low, high)):
        slope = BandKl(low, high, least, outside, by=side)
        value = value + Still(slope) * (edge - Still(edge))
    return value
