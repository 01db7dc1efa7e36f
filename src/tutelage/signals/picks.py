"""Weights that choose units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.errors import SettingError
from ..core.signal import Couples, Signal


@dataclass(frozen=True)
class TopShare(Signal):
    """1 for the share of a batch's units where ``by`` is largest, else 0; ties go to the earlier unit.

    Args:
        share: In (0, 1]; ``floor(share * U)`` units are kept, at least one.
        by: The signal that ranks.
    """

    share: float
    by: Signal
    couples: ClassVar[Couples] = Couples.BATCH

    def __post_init__(self) -> None:
        _share("TopShare.share", self.share)

    def __call__(self, ctx: Asks) -> Tensor:
        values = _values(ctx, self.by)
        order = values.argsort(descending=True, stable=True)
        return torch.zeros_like(values).index_fill(0, order[: num_kept(self.share, len(values))], 1.0)


@dataclass(frozen=True)
class Draw(Signal):
    """1 for a share of a batch's units drawn without replacement, one after the other in proportion to ``by``, else 0.

    The draw belongs to the run's seed, the step and the records, so it is the same however a round is split. Units of
    ``by = 0`` are drawn only when no others are left.

    Args:
        share: In (0, 1]; ``floor(share * U)`` units are drawn, at least one.
        by: A signal >= 0; what rounding put below counts as 0.
    """

    share: float
    by: Signal
    couples: ClassVar[Couples] = Couples.BATCH

    def __post_init__(self) -> None:
        _share("Draw.share", self.share)

    def __call__(self, ctx: Asks) -> Tensor:
        weight = _values(ctx, self.by).double().clamp_min(0)
        # The k largest of log w + Gumbel noise are k successive draws in proportion to w.
        uniform = torch.rand(len(weight), dtype=torch.float64, generator=ctx.generator("draw")).to(weight.device)
        keys = weight.log() - (-uniform.clamp_min(torch.finfo(torch.float64).tiny).log()).log()
        order = keys.argsort(descending=True, stable=True)[: num_kept(self.share, len(weight))]
        return torch.zeros_like(weight, dtype=torch.float32).index_fill(0, order, 1.0)


@dataclass(frozen=True)
class Opening(Signal):
    """1 for the first units of each record, up to a share of the record's sum of ``by``, else 0: Float[U].

    A record's first unit is always in; one whose sum is 0 has no other.

    Args:
        share: In (0, 1]; 1 keeps every unit.
        by: A signal >= 0 over tokens.
    """

    share: float
    by: Signal
    couples: ClassVar[Couples] = Couples.ROW

    def __post_init__(self) -> None:
        _share("Opening.share", self.share)

    def __call__(self, ctx: Asks) -> Tensor:
        units, values = ctx.batch.units[self.by.over or "tokens"], _values(ctx, self.by).double()
        if not len(values):
            return values.float()
        total = torch.zeros(ctx.batch.num_rows, dtype=torch.float64, device=values.device).index_add(
            0, units.row, values
        )
        summed = values.cumsum(0)  # units of a row are neighbours, in time order
        before = torch.zeros_like(total).index_copy(0, units.row[units.time == 0], (summed - values)[units.time == 0])
        reached = (summed - before[units.row]) / total.clamp_min(torch.finfo(torch.float64).tiny)[units.row]
        # a hair of room: the last unit's share of the sum is 1 but for rounding
        return ((reached <= self.share + 1e-9) & (total > 0)[units.row] | (units.time == 0)).float()


@dataclass(frozen=True)
class Above(Signal):
    """1 where ``of`` is above a bound, else 0."""

    of: Signal
    bound: float = 0.0

    def __call__(self, ctx: Asks) -> Tensor:
        value = ctx(self.of)
        return (value > self.bound).to(value.dtype)


@dataclass(frozen=True)
class Below(Signal):
    """1 where ``of`` is at or below a bound, else 0: with ``Above`` of the same bound it parts the units in two."""

    of: Signal
    bound: float = 0.0

    def __call__(self, ctx: Asks) -> Tensor:
        value = ctx(self.of)
        return (value <= self.bound).to(value.dtype)


@dataclass(frozen=True)
class Tagged(Signal):
    """1 for each record whose field has a value, else 0: Float[R].

    Args:
        field: The field; a record without it has none of the values.
        value: The value, as text.
    """

    field: str
    value: str

    @property
    def over(self) -> str:
        return "rows"

    def __call__(self, ctx: Asks) -> Tensor:
        has = [float(str(r.fields.get(self.field)) == self.value) for r in ctx.batch.records]
        return torch.tensor(has, device=ctx.batch.units["rows"].row.device)


def num_kept(share: float, num_units: int) -> int:
    """``floor(share * num_units)``, at least 1 where there is a unit."""
    # rounding first: 0.1 * 30 is a hair above 3, 0.7 * 10 a hair below 7
    return min(num_units, max(1, math.floor(round(share * num_units, 9))))


def _values(ctx: Asks, by: Signal) -> Tensor:
    """One value a unit, also where it is the same for all."""
    return ctx(by).expand(len(ctx.batch.units[by.over or "tokens"]))


def _share(where: str, share: float) -> None:
    if not 0 < share <= 1:
        raise SettingError(where, got=str(share), expected="a share in (0, 1]", remedy="1 keeps every unit.")
