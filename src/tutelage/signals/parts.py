"""From units to the coarser units that they are part of: turns of a record, chunks of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.batch import Batch, Units
from ..core.context import Asks
from ..core.errors import NeedError
from ..core.signal import Couples, Signal


@dataclass(frozen=True)
class Gathered(Signal):
    """One value for each coarser unit, of those of the finer units that it is made of; a subclass says which.

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


@dataclass(frozen=True)
class PartSum(Gathered):
    """The sum of a signal over the units that each coarser unit is made of: Float[chunks].

    Of log-probabilities of tokens it is the log-likelihood of the chunk.

    Args:
        of: A signal over the finer units.
        into: The coarser unit list.
    """

    def __call__(self, ctx: Asks) -> Tensor:
        home = home_of(ctx.batch.units[self.of.over], self.of.over, self.into)
        values = ctx(self.of).expand(home.shape[0])
        inside = home >= 0
        out = torch.zeros(len(ctx.batch.units[self.into]), dtype=values.dtype, device=values.device)
        return out.index_add(0, home[inside], values[inside])


@dataclass(frozen=True)
class PartMean(Gathered):
    """The mean of a signal over the units that each coarser unit is made of, 0 for one without any: Float[parts].

    Args:
        of: A signal over the finer units.
        into: The coarser unit list.
    """

    def __call__(self, ctx: Asks) -> Tensor:
        sums, home = PartSum(self.of, self.into)(ctx), home_of(ctx.batch.units[self.of.over], self.of.over, self.into)
        count = torch.bincount(home[home >= 0], minlength=len(sums))
        return sums / count.clamp_min(1)


@dataclass(frozen=True)
class PartFirst(Gathered):
    """The value at the first of the units that each coarser unit is made of, 0 for one without any: Float[parts].

    Args:
        of: A signal over the finer units.
        into: The coarser unit list.
    """

    def __call__(self, ctx: Asks) -> Tensor:
        first = first_of(ctx.batch, self.of.over, self.into)
        values = ctx(self.of).expand(len(ctx.batch.units[self.of.over]))
        there = first < len(values)
        out = torch.zeros(len(first), dtype=values.dtype, device=values.device)
        return out.index_add(0, there.nonzero().squeeze(1), values[first[there]])


@dataclass(frozen=True)
class Within(Signal):
    """1 for each unit that is part of a coarser one, else 0: Float[U].

    Args:
        into: The coarser unit list.
        finer: The units.
    """

    into: str
    finer: str = "tokens"

    @property
    def over(self) -> str:
        return self.finer

    def __call__(self, ctx: Asks) -> Tensor:
        return (home_of(ctx.batch.units[self.finer], self.finer, self.into) >= 0).float()


@dataclass(frozen=True)
class AtFirst(Signal):
    """A coarser unit's value at the first finer unit that it is made of, 0 at the others: Float[U].

    A mean over the finer units then divides by their number, and each coarser unit counts once.

    Args:
        of: A signal over coarser units.
        finer: The unit list that they are made of.
    """

    of: Signal
    finer: str = "tokens"
    couples: ClassVar[Couples] = Couples.ROW

    @property
    def over(self) -> str:
        return self.finer

    def __call__(self, ctx: Asks) -> Tensor:
        size = len(ctx.batch.units[self.finer])
        first = first_of(ctx.batch, self.finer, self.of.over)
        values, there = ctx(self.of).expand(len(first)), first < size
        out = torch.zeros(size, dtype=values.dtype, device=values.device)
        return out.index_add(0, first[there], values[there])


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


def first_of(batch: Batch, over: str, into: str) -> Tensor:
    """For each coarser unit the first of the finer units that are part of it; their number for none: Int[parts]."""
    home = home_of(batch.units[over], over, into)
    place, inside = torch.arange(len(home), device=home.device), home >= 0
    none = torch.full((len(batch.units[into]),), len(home), dtype=torch.long, device=home.device)
    return none.scatter_reduce(0, home[inside], place[inside], "amin")


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
