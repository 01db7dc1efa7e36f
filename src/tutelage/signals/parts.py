"""From units to the coarser units that they are part of: turns of a record, chunks of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.batch import Units
from ..core.context import Asks
from ..core.errors import NeedError
from ..core.signal import Couples, Signal


@dataclass(frozen=True)
class PartSum(Signal):
    """The sum of a signal over the units that each coarser unit is made of: Float[chunks].

    Of log-probabilities of tokens it is the log-likelihood of the chunk.

    Args:
        of: A signal over the finer units.
        into: The coarser unit list.
    """

    of: Signal
    into: str
    couples: ClassVar[Couples] = Couples.ROW

    @property
    def over(self) -> str:
        return self.into

    def __call__(self, ctx: Asks) -> Tensor:
        home = home_of(ctx.batch.units[self.of.over], self.of.over, self.into)
        values = ctx(self.of).expand(home.shape[0])
        inside = home >= 0
        out = torch.zeros(len(ctx.batch.units[self.into]), dtype=values.dtype, device=values.device)
        return out.index_add(0, home[inside], values[inside])


@dataclass(frozen=True)
class PartMean(Signal):
    """The mean of a signal over the units that each coarser unit is made of, 0 for one without any: Float[parts].

    Args:
        of: A signal over the finer units.
        into: The coarser unit list.
    """

    of: Signal
    into: str
    couples: ClassVar[Couples] = Couples.ROW

    @property
    def over(self) -> str:
        return self.into

    def __call__(self, ctx: Asks) -> Tensor:
        sums, home = PartSum(self.of, self.into)(ctx), home_of(ctx.batch.units[self.of.over], self.of.over, self.into)
        count = torch.bincount(home[home >= 0], minlength=len(sums))
        return sums / count.clamp_min(1)


@dataclass(frozen=True)
class Place(Signal):
    """The place of each unit among its record's units, from 0: Float[U].

    Args:
        unit: The unit list.
    """

    unit: str = "tokens"

    @property
    def over(self) -> str:
        return self.unit

    def __call__(self, ctx: Asks) -> Tensor:
        return ctx.batch.units[self.unit].time.float()


@dataclass(frozen=True)
class RowFirst(Signal):
    """The value of each record's first unit, 0 for a record without one: Float[R].

    Args:
        of: A signal over units of any list.
    """

    of: Signal
    couples: ClassVar[Couples] = Couples.ROW

    @property
    def over(self) -> str:
        return "rows"

    def __call__(self, ctx: Asks) -> Tensor:
        units = ctx.batch.units[self.of.over or "tokens"]
        values, first = ctx(self.of).expand(len(units)), units.time == 0
        out = torch.zeros(ctx.batch.num_rows, dtype=values.dtype, device=values.device)
        return out.index_add(0, units.row[first], values[first])


def home_of(units: Units, over: str, into: str) -> Tensor:
    """For each of some units the coarser unit that it is part of, -1 for none: Int[U].

    Raises:
        NeedError: They are no part of that list.
    """
    if into not in units.part_of:
        raise NeedError(
            f"sum over {into!r}",
            got=f"units {over!r} that are part of {', '.join(sorted(units.part_of)) or 'nothing'}",
            expected=f"units that are part of {into!r}",
            remedy="Turns are those of `tokens`; chunks need a voice that aligns by bytes (voices.align.Aligned).",
        )
    return units.part_of[into]
