"""Importance weights, and advantages on one scale: what off-policy samples need."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.errors import SettingError
from ..core.signal import Couples, Noted, Signal, Still


@dataclass(frozen=True)
class Ratio(Signal):
    """``min(exp(new - old), cap)``: how much likelier a token is under one distribution than another; no gradient.

    As a weight of tokens that were drawn from ``old`` it makes their mean one over tokens drawn from ``new``.

    Args:
        new: Log-probabilities of the tokens that are there.
        old: Those under the distribution that they were drawn from, usually ``Noted("drawn")``.
        cap: The largest weight, > 0; infinite leaves the estimate unbiased.
    """

    new: Signal
    old: Signal
    cap: float = math.inf

    def __post_init__(self) -> None:
        if not self.cap > 0:
            raise SettingError("Ratio.cap", got=str(self.cap), expected="a number > 0", remedy="2 to 5 is usual.")

    def __call__(self, ctx: Asks) -> Tensor:
        gap = ctx.spread(Still(self.new), self.over) - ctx.spread(Still(self.old), self.over)
        # the logarithm is bounded, not the ratio: exp of a large gap is infinite
        return gap.clamp_max(math.log(self.cap) if math.isfinite(self.cap) else 80.0).exp()

    def children(self) -> tuple[Signal, ...]:
        return (Still(self.new), Still(self.old))


@dataclass(frozen=True)
class Truncated(Signal):
    """``min(exp(new - old), cap)`` where a sampler drew the token and said ``old`` of it, 1 elsewhere; no gradient.

    Args:
        new: Log-probabilities of the tokens that are there.
        note: The note over tokens that holds ``old``; above 0 where no sampler drew the token.
        cap: The largest ratio, > 0.

    Source: arXiv:1802.01561 (truncated importance weights).
    """

    new: Signal
    note: str
    cap: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.cap < math.inf:
            raise SettingError("Truncated.cap", got=str(self.cap), expected="a finite number > 0", remedy="2 is usual.")

    def __call__(self, ctx: Asks) -> Tensor:
        old = ctx.spread(Noted(self.note), "tokens")
        gap = ctx.spread(Still(self.new), "tokens") - old
        return torch.where(old > 0, torch.ones_like(gap), gap.clamp_max(math.log(self.cap)).exp())

    def children(self) -> tuple[Signal, ...]:
        return (Still(self.new), Noted(self.note))


@dataclass(frozen=True)
class Whitened(Signal):
    """``(x - mean) / sqrt(variance + 1e-8)`` over a batch's units: Float[U], mean 0 and variance 1.

    Args:
        of: The signal.
    """

    of: Signal
    couples: ClassVar[Couples] = Couples.BATCH

    def __call__(self, ctx: Asks) -> Tensor:
        x = ctx(self.of)
        if x.numel() < 2:
            return torch.zeros_like(x)
        return (x - x.mean()) * (x.var() + 1e-8).rsqrt()
