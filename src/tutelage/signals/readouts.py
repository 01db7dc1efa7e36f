"""Numbers read off one voice's scores at a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.context import Asks
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
