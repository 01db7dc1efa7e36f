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
        share: In (0, 1]; ``ceil(share * U)`` units are kept.
        by: The signal that ranks.
    """

    share: float
    by: Signal
    couples: ClassVar[Couples] = Couples.BATCH

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SettingError(
                "TopShare.share", got=str(self.share), expected="a share in (0, 1]", remedy="1 keeps every unit."
            )

    def __call__(self, ctx: Asks) -> Tensor:
        values = ctx(self.by)
        keep = math.ceil(self.share * values.shape[0])
        order = values.argsort(descending=True, stable=True)
        return torch.zeros_like(values).index_fill(0, order[:keep], 1.0)


@dataclass(frozen=True)
class Above(Signal):
    """1 where ``of`` is above a bound, else 0."""

    of: Signal
    bound: float = 0.0

    def __call__(self, ctx: Asks) -> Tensor:
        value = ctx(self.of)
        return (value > self.bound).to(value.dtype)
