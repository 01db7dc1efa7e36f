"""Signals brought to a common scale: over a batch, a group, or what was seen so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.doubts import Here
from ..core.errors import SettingError
from ..core.schedule import Memory, Progress
from ..core.signal import Couples, Signal

EPSILON = 1e-8


@dataclass(frozen=True)
class MinMax(Signal):
    """``(x - min) / (max - min + 1e-8)`` over a batch's units, in [0, 1]: Float[U].

    Only trained units are units, so padding and prompts cannot stretch the scale.

    Args:
        of: The signal.
        clip_share: In [0, 1); values above the quantile ``1 - clip_share`` are set to it first, so that a single
            outlier does not press all others to 0. 0 clips nothing.
    """

    of: Signal
    clip_share: float = 0.0
    couples: ClassVar[Couples] = Couples.BATCH

    def __post_init__(self) -> None:
        if not 0 <= self.clip_share < 1:
            raise SettingError(
                "MinMax.clip_share",
                got=str(self.clip_share),
                expected="a share in [0, 1)",
                remedy="0.02 clips the largest 2 %.",
            )

    def __call__(self, ctx: Asks) -> Tensor:
        x = ctx(self.of)
        if not x.numel():
            return x
        if self.clip_share:
            x = x.clamp(max=quantile(x, 1 - self.clip_share))
        low, high = x.min(), x.max()
        return (x - low) / (high - low + EPSILON)


@dataclass(frozen=True)
class Either(Signal):
    """``a + b - a b`` of two signals in [0, 1]: large where one of the two is."""

    a: Signal
    b: Signal

    def __call__(self, ctx: Asks) -> Tensor:
        a, b = ctx.spread(self.a, self.over), ctx.spread(self.b, self.over)
        return a + b - a * b


@dataclass(frozen=True)
class Floor(Signal):
    """``max(x, bound)``: a divergence that rounding put a hair below 0 can then be raised to any power."""

    of: Signal
    bound: float = 0.0

    def __call__(self, ctx: Asks) -> Tensor:
        return ctx(self.of).clamp_min(self.bound)


@dataclass(frozen=True)
class Ceiling(Signal):
    """``min(x, bound)``."""

    of: Signal
    bound: float

    def __call__(self, ctx: Asks) -> Tensor:
        return ctx(self.of).clamp_max(self.bound)


@dataclass(frozen=True)
class GroupSoftmax(Signal):
    """The softmax of ``x / temperature`` among some rows of a group, times their number: Float[R], mean 1 among them.

    Rows that are not among them get 0; a row that is alone gets 1.

    Args:
        of: A signal over rows.
        among: A signal over rows; those where it is above 0 share a softmax.
        temperature: > 0; large values make all weights 1, small ones pick the largest.
    """

    of: Signal
    among: Signal
    temperature: float = 1.0
    couples: ClassVar[Couples] = Couples.GROUP

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise SettingError(
                "GroupSoftmax.temperature", got=str(self.temperature), expected="a number > 0", remedy="1 is usual."
            )

    def doubt(self, here: Here) -> str:
        """Groups of one, whose weights are 1."""
        return "" if here.group != 1 else "each prompt has one answer, so that weights within a group are all 1."

    @property
    def over(self) -> str:
        return "rows"

    def __call__(self, ctx: Asks) -> Tensor:
        inside, num = ctx.batch.groups("GroupSoftmax")
        x, among = ctx(self.of), ctx(self.among) > 0
        z = (x / self.temperature).masked_fill(~among, -torch.inf)
        top = torch.full((num,), -torch.inf, dtype=x.dtype, device=x.device)
        top = top.scatter_reduce(0, inside, z, "amax")[inside]
        mass = torch.where(among, (z - top).exp(), torch.zeros_like(z))
        ones = among.to(x.dtype)
        total = torch.zeros(num, dtype=x.dtype, device=x.device)
        share = mass / total.index_add(0, inside, mass)[inside].clamp_min(torch.finfo(x.dtype).tiny)
        return share * total.index_add(0, inside, ones)[inside] * ones


@dataclass(frozen=True)
class RowRank(Signal):
    """The share of a record's units whose value is at most the unit's own, in (0, 1]: Float[U].

    A bound on it is a quantile of each record by itself, whatever the record's scale.

    Args:
        of: A signal over tokens.
    """

    of: Signal
    couples: ClassVar[Couples] = Couples.ROW

    def __call__(self, ctx: Asks) -> Tensor:
        row = ctx.batch.units[self.over or "tokens"].row
        x = ctx(self.of).expand(len(row))
        # by value, then by row: units of a row are neighbours, in rising order
        order = x.argsort(stable=True)
        order = order[row[order].argsort(stable=True)]
        counts = torch.bincount(row, minlength=ctx.batch.num_rows)
        start = (counts.cumsum(0) - counts)[row[order]]
        place = torch.arange(len(row), device=x.device) - start + 1
        same = torch.ones(len(row), dtype=torch.bool, device=x.device)
        same[1:] = (x[order][1:] != x[order][:-1]) | (row[order][1:] != row[order][:-1])
        run = same.cumsum(0) - 1  # equal values share the largest place among them
        top = torch.zeros_like(place).scatter_reduce(0, run, place, "amax", include_self=False)[run]
        return torch.empty_like(x).index_copy(0, order, top.to(x.dtype) / counts[row[order]].to(x.dtype))


class Fifo(Memory):
    """The last values of former steps; those of a step enter when it is done."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reset()

    def reset(self) -> None:
        self.values, self.new = torch.zeros(0), torch.zeros(0)

    def observe(self, progress: Progress, tracked: Mapping[str, float]) -> None:
        self.values, self.new = torch.cat([self.values, self.new])[-self.size :], torch.zeros(0)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reset()
        self.values = state["values"].clone()


@dataclass(frozen=True, eq=False)
class RecentRank(Signal):
    """The share of the last values of former steps that are at most the unit's own: Float[U] in [0, 1], 0.5 before any.

    A bound on it is a quantile that moves with training, where a fixed bound would soon be passed by all or by none.

    Args:
        of: The signal.
        size: How many values are remembered, first in first out.
    """

    of: Signal
    size: int = 4096
    couples: ClassVar[Couples] = Couples.BATCH
    memory: Fifo = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SettingError("RecentRank.size", got=str(self.size), expected="at least 1", remedy="4096 is usual.")
        object.__setattr__(self, "memory", Fifo(self.size))

    def __call__(self, ctx: Asks) -> Tensor:
        x = ctx(self.of)
        self.memory.new = x.detach().float().cpu().clone()
        past = self.memory.values.to(x.device).sort().values
        if not len(past):
            return torch.full_like(x, 0.5)
        return torch.searchsorted(past, x.detach().float().contiguous(), right=True).to(x.dtype) / len(past)


def quantile(x: Tensor, share: float) -> Tensor:
    """The quantile with linear interpolation between neighbours, for any number of values."""
    ordered = x.sort().values
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
