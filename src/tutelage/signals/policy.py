"""Policy-gradient losses: the gradient goes through the log-probability of what was sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.errors import SettingError
from ..core.signal import Read, Signal, Still
from .readouts import LogProb


@dataclass(frozen=True)
class ScoreFunction(Signal):
    """``-A log q(y)`` with A fixed: its gradient is an unbiased estimate where y was sampled from q.

    The value is not a loss to watch: it is large and negative or positive by chance. Only its gradient has a meaning.

    Args:
        advantage: A signal over tokens or rows; it gets no gradient.
        of: The learner.
    """

    advantage: Signal
    of: Read = Read("student")

    def __call__(self, ctx: Asks) -> Tensor:
        return -ctx.spread(Still(self.advantage), "tokens") * ctx(LogProb(self.of))

    def children(self) -> tuple[Signal, ...]:
        return (Still(self.advantage), LogProb(self.of))


@dataclass(frozen=True)
class Clipped(Signal):
    """``-min(r A, clip(r, 1 - low, 1 + high) A)`` with ``r = q(y) / old(y)``.

    Args:
        advantage: A signal over tokens or rows; it gets no gradient.
        against: Log-probabilities of the sampled tokens when they were written, usually ``Noted("log_prob")``.
        low: Clip below, in [0, 1).
        high: Clip above, >= 0; equal to ``low`` in PPO and GRPO, larger in DAPO.
        of: The learner.
        most: The largest ``|log r|``, > 0; beyond it the gradient is 0, so that an ``against`` that is no policy of the
            learner's (a teacher's share) cannot make the ratio overflow.

    Source: arXiv:1707.06347, arXiv:2402.03300.
    """

    advantage: Signal
    against: Signal
    low: float = 0.2
    high: float = 0.2
    of: Read = Read("student")
    most: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.low < 1 or self.high < 0 or not self.most > 0:
            raise SettingError(
                "Clipped",
                got=f"low={self.low}, high={self.high}, most={self.most}",
                expected="low in [0, 1), high >= 0, most > 0",
                remedy="0.2 for both bounds is usual.",
            )

    def __call__(self, ctx: Asks) -> Tensor:
        advantage = ctx.spread(Still(self.advantage), "tokens")
        ratio = ctx(LogProb(self.of)) - ctx.spread(Still(self.against), "tokens")
        ratio = (ratio.clamp(-self.most, self.most) if math.isfinite(self.most) else ratio).exp()
        bounded = ratio.clamp(1 - self.low, 1 + self.high)
        return -torch.minimum(ratio * advantage, bounded * advantage)

    def children(self) -> tuple[Signal, ...]:
        return (Still(self.advantage), LogProb(self.of), Still(self.against))


@dataclass(frozen=True)
class K3(Signal):
    """``exp(k) - k - 1`` with ``k = log p(y) - log q(y)`` at the sampled token: >= 0, and unbiased for KL(q || p).

    Its gradient is ``(1 - p/q) grad log q``, which grows without bound where q is far below p; k is therefore bounded,
    and beyond the bound the gradient is 0.

    Args:
        q: Log-probabilities of the learner.
        p: Those of the side that is matched; they get no gradient.
        most: The largest ``|k|``, > 0.

    Source: http://joschu.net/blog/kl-approx.html.
    """

    q: Signal = LogProb(Read("student"))
    p: Signal = LogProb(Read("teacher"))
    most: float = 10.0

    def __post_init__(self) -> None:
        if not self.most > 0:
            raise SettingError("K3.most", got=str(self.most), expected="a number > 0", remedy="10 is usual.")

    def __call__(self, ctx: Asks) -> Tensor:
        k = (ctx.spread(Still(self.p), "tokens") - ctx.spread(self.q, "tokens")).clamp(-self.most, self.most)
        return k.expm1() - k

    def children(self) -> tuple[Signal, ...]:
        return (self.q, Still(self.p))
