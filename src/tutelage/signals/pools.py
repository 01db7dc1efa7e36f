"""From units to rows, and between the rows of a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.doubts import Here
from ..core.errors import SettingError
from ..core.signal import Couples, Signal


def _sum_by(values: Tensor, home: Tensor, num: int) -> Tensor:
    return torch.zeros(num, dtype=values.dtype, device=values.device).index_add(0, home, values)


@dataclass(frozen=True)
class RowSum(Signal):
    """The sum over a record's units: Float[R]."""

    of: Signal
    couples: ClassVar[Couples] = Couples.ROW

    @property
    def over(self) -> str:
        return "rows"

    def __call__(self, ctx: Asks) -> Tensor:
        row = ctx.batch.units[self.of.over or "tokens"].row
        return _sum_by(ctx(self.of).expand(row.shape[0]), row, ctx.batch.num_rows)


@dataclass(frozen=True)
class RowMean(Signal):
    """The mean over a record's units, 0 for a record without one: Float[R]."""

    of: Signal
    couples: ClassVar[Couples] = Couples.ROW

    @property
    def over(self) -> str:
        return "rows"

    def __call__(self, ctx: Asks) -> Tensor:
        row = ctx.batch.units[self.of.over or "tokens"].row
        values = ctx(self.of).expand(row.shape[0])
        count = _sum_by(torch.ones_like(values), row, ctx.batch.num_rows)
        return _sum_by(values, row, ctx.batch.num_rows) / count.clamp_min(1)


@dataclass(frozen=True)
class RowQuantile(Signal):
    """The quantile of a record's units, linear between neighbours, 0 for a record without one: Float[R].

    Args:
        of: A signal over units.
        share: In [0, 1]: 0 is the least, 1 the greatest value.
    """

    of: Signal
    share: float
    couples: ClassVar[Couples] = Couples.ROW

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise SettingError(
                "RowQuantile.share", got=str(self.share), expected="a share in [0, 1]", remedy="0.5 is the median."
            )

    @property
    def over(self) -> str:
        return "rows"

    def __call__(self, ctx: Asks) -> Tensor:
        row = ctx.batch.units[self.of.over or "tokens"].row
        x = ctx(self.of).expand(row.shape[0])
        if not len(x):
            return x.new_zeros(ctx.batch.num_rows)
        # by value, then by row: the rows follow one another, each in rising order
        order = x.argsort(stable=True)
        ordered = x[order[row[order].argsort(stable=True)]]
        count = torch.bincount(row, minlength=ctx.batch.num_rows)
        first, last = count.cumsum(0) - count, (count.cumsum(0) - 1).clamp_min(0)
        place = self.share * (count - 1).clamp_min(0).double()
        low = (first + place.long()).clamp_max(len(x) - 1)
        high = torch.minimum(low + 1, last)
        value = torch.lerp(ordered[low], ordered[high], (place - place.floor()).to(x.dtype))
        return value.masked_fill(count == 0, 0.0)


@dataclass(frozen=True)
class GroupNorm(Signal):
    """``(x - mean) / (std + epsilon)`` among the records of a group: Float[R].

    The standard deviation is the sample's (divided by n - 1), as GRPO's is; a group whose values are all equal gives 0.

    Args:
        of: A signal over rows.
        scaled: Divide by the standard deviation (without it: Dr. GRPO).
        epsilon: Keeps tiny deviations from blowing up.
    """

    of: Signal
    scaled: bool = True
    epsilon: float = 1e-4
    couples: ClassVar[Couples] = Couples.GROUP

    def doubt(self, here: Here) -> str:
        """Groups of one, among which nothing differs."""
        return "" if here.group != 1 else "each prompt has one answer, so that what is compared in a group is 0."

    @property
    def over(self) -> str:
        return "rows"

    def __call__(self, ctx: Asks) -> Tensor:
        (home, num), x = ctx.batch.groups("GroupNorm"), ctx(self.of)
        count = _sum_by(torch.ones_like(x), home, num)
        centred = x - (_sum_by(x, home, num) / count)[home]
        # equal values leave a rounding of their mean behind, which epsilon would blow up
        alike = (x - x[_first(home, num)][home]).abs()
        centred = centred * (_sum_by(alike, home, num) > 0)[home]
        if not self.scaled:
            return centred
        spread = (_sum_by(centred.square(), home, num) / (count - 1).clamp_min(1)).sqrt()
        return centred / (spread[home] + self.epsilon)


@dataclass(frozen=True)
class Alike(Signal):
    """1 for each record of a group whose values are all equal, else 0: Float[R].

    Watch it beside a group's advantage: such a group teaches nothing, and a log that does not count them looks healthy.

    Args:
        of: A signal over rows.
    """

    of: Signal
    couples: ClassVar[Couples] = Couples.GROUP

    @property
    def over(self) -> str:
        return "rows"

    def __call__(self, ctx: Asks) -> Tensor:
        x = ctx(self.of)
        if ctx.batch.group is None:
            return torch.ones_like(x)
        home, num = ctx.batch.groups("Alike")
        differs = (x != x[_first(home, num)][home]).to(x.dtype)
        return (_sum_by(differs, home, num) == 0).to(x.dtype)[home]


def _first(home: Tensor, num: int) -> Tensor:
    """The first place of each of ``num`` homes."""
    place = torch.arange(len(home), device=home.device)
    return torch.full((num,), len(home), device=home.device).scatter_reduce(0, home, place, "amin")


@dataclass(frozen=True)
class ToGo(Signal):
    """The sum of the strictly later units of a record: Float[U].

    Args:
        of: A signal over tokens.
        mean: Divide by the number of later units (length normalisation); the last unit gets 0.
    """

    of: Signal
    mean: bool = False
    couples: ClassVar[Couples] = Couples.ROW

    def __call__(self, ctx: Asks) -> Tensor:
        units = ctx.batch.units["tokens"]
        values = ctx(self.of).expand(len(units))
        num = ctx.batch.num_rows
        before = values.cumsum(0)  # units of a row are neighbours, in time order
        place = torch.arange(len(units), device=values.device)
        last = torch.zeros(num, dtype=torch.long, device=values.device)
        last = last.scatter_reduce(0, units.row, place, "amax")[units.row]
        later = before[last] - before
        return later / (last - place).clamp_min(1) if self.mean else later
