"""Divergences whose skew is a signal: it differs from record to record and follows what is measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.errors import SettingError
from ..core.schedule import Schedule, value_at
from ..core.signal import Read, Signal, Still
from .divergences.kl import mixture, relative_entropy


@dataclass(frozen=True)
class Skewed(Signal):
    """``KL(p || s p + (1 - s) q)``, or with ``reverse`` ``KL(q || s q + (1 - s) p)``, with the share s a signal.

    Args:
        share: A signal over tokens or rows in [0, 1); it gets no gradient.
        reverse: Which of the two.
        q: The learner's side.
        p: The side that is matched; it gets no gradient.

    Source: arXiv:2503.07067.
    """

    share: Signal
    reverse: bool = False
    q: Read = Read("student")
    p: Read = Read("teacher")

    def __call__(self, ctx: Asks) -> Tensor:
        share = ctx.spread(Still(self.share), self.over)
        log_q, log_p = ctx.log_probs(self.q), ctx.log_probs(self.p).detach()
        share = share.to(log_q.dtype)
        first, second = (log_q, log_p) if self.reverse else (log_p, log_q)
        return relative_entropy(first, mixture(first, second, share))

    def children(self) -> tuple[Signal, ...]:
        return (Still(self.share),)

    @property
    def over(self) -> str:
        return self.q.over


@dataclass(frozen=True)
class Anchored(Signal):
    """``clip(1 - anchor / (x + 1e-5), least, most)``: ``most`` where x is large, less where it comes near the anchor.

    A mixture ``s p + (1 - s) q`` lies ``1 - s`` of the way from p to q, so this share keeps that distance near the
    anchor, whatever x is. Below 0, where the two sides have changed places, it is ``most``.

    Args:
        of: The signal x, such as a record's mean log-ratio.
        anchor: A number or a schedule, in the unit of x; 0 gives ``most`` everywhere.
        least: The smallest value, in [0, most].
        most: The largest value, in [least, 1).
    """

    of: Signal
    anchor: float | Schedule
    least: float = 0.01
    most: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most < 1:
            raise SettingError(
                "Anchored",
                got=f"least={self.least}, most={self.most}",
                expected="0 <= least <= most < 1",
                remedy="0.01 and 0.1 are usual for a skew.",
            )

    def __call__(self, ctx: Asks) -> Tensor:
        x, anchor = ctx(self.of), value_at(self.anchor, ctx.progress)
        return torch.clamp(1 - anchor / (x + 1e-5), self.least, self.most)
