"""Numbers read off one voice's scores at a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.context import Asks, Tile
from ..core.errors import NeedError
from ..core.signal import Read, Signal
from .match import target_log_prob


@dataclass(frozen=True)
class LogProb(Signal):
    """``log q(target)`` in nats, of the token that is there."""

    of: Read = Read("student")
    of_target: ClassVar[bool] = True  # all that it needs of a voice

    def __call__(self, ctx: Asks) -> Tensor:
        return target_log_prob(ctx, self.of)


@dataclass(frozen=True)
class LogMass(Signal):
    """``log sum exp`` of the logits that a read gives, in nats: Float[U].

    Logits are a model's own only up to a constant at each unit, so that only differences of this at one unit, or of
    ``raw`` ones, mean something.

    Args:
        of: Whose scores.
        raw: Take the head's own logits, and refuse scores that are known as log-probabilities alone.

    Raises:
        NeedError: When read: ``raw`` of what no head of this process gives.
    """

    of: Read = Read("student")
    raw: bool = False

    def __call__(self, ctx: Asks) -> Tensor:
        whole = ctx.ctx if isinstance(ctx, Tile) else ctx
        scores = whole.field(self.of)  # type: ignore[attr-defined]
        if self.raw and not scores.leaves():
            raise NeedError(
                f"logits of {self.of.who!r}",
                got="log-probabilities (a cache, a server, a blend)",
                expected="the logits of a model in this process",
                remedy="Score by log-probabilities instead, which every voice gives.",
            )
        held = (ctx.scores(self.of), ctx.rows) if isinstance(ctx, Tile) else (scores, slice(None))
        return held[0].logits(held[1]).logsumexp(-1)


@dataclass(frozen=True)
class Entropy(Signal):
    """``-sum q log q`` in nats."""

    of: Read = Read("student")

    def __call__(self, ctx: Asks) -> Tensor:
        log_q = ctx.log_probs(self.of)
        product = torch.where(torch.isneginf(log_q), torch.zeros_like(log_q), log_q.exp() * log_q.clamp_min(-1e30))
        return -product.sum(-1)


@dataclass(frozen=True)
class Prob(Signal):
    """Probability of the most probable category, in (0, 1]."""

    of: Read = Read("teacher")

    def __call__(self, ctx: Asks) -> Tensor:
        return ctx.log_probs(self.of).amax(-1).exp()


@dataclass(frozen=True)
class Agrees(Signal):
    """1 where two voices' most probable categories are the same, else 0."""

    q: Read = Read("student")
    p: Read = Read("teacher")

    def __call__(self, ctx: Asks) -> Tensor:
        log_q, log_p = ctx.log_probs(self.q), ctx.log_probs(self.p)
        return (log_q.argmax(-1) == log_p.argmax(-1)).to(log_q.dtype)


def gap(student: str = "student", teacher: str = "teacher") -> Signal:
    """``log p(y) - log q(y)`` at the token that is there: the reward of on-policy distillation."""
    return LogProb(Read(teacher)) - LogProb(Read(student))
