"""Preference losses: they couple the rows of a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.errors import NeedError, SettingError
from ..core.signal import Couples, Noted, Signal


@dataclass(frozen=True)
class PairSigmoid(Signal):
    """``-log sigmoid(beta (x_better - x_worse))`` for the two records of a group: Float[R], half the value on each row.

    With ``x = RowSum(LogProb(student) - LogProb(reference))`` this is DPO (arXiv:2305.18290).

    Args:
        of: A signal over rows.
        by: A signal over rows that is larger for the better record of a pair.
        beta: Sharpness, > 0.
    """

    of: Signal
    by: Signal = Noted("right", "rows")
    beta: float = 0.1
    couples: ClassVar[Couples] = Couples.GROUP

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise SettingError("PairSigmoid.beta", got=str(self.beta), expected="a number > 0", remedy="0.1 is usual.")

    @property
    def over(self) -> str:
        return "rows"

    def __call__(self, ctx: Asks) -> Tensor:
        x, rank = ctx(self.of), ctx.still(self.by)
        home, num = ctx.batch.groups("PairSigmoid")
        count = torch.bincount(home, minlength=num)
        if bool((count != 2).any()):
            raise NeedError(
                "PairSigmoid",
                got=f"groups of {sorted(set(count.tolist()))} records",
                expected="groups of two",
                remedy="Give the two records of a pair the same group.",
            )
        order = torch.argsort(home * 2 + (rank < rank[self._partner(home)]).long(), stable=True)
        better, worse = order[0::2], order[1::2]
        value = -torch.nn.functional.logsigmoid(self.beta * (x[better] - x[worse])) / 2
        return torch.zeros_like(x).index_add(0, better, value).index_add(0, worse, value)

    @staticmethod
    def _partner(home: Tensor) -> Tensor:
        order = torch.argsort(home, stable=True).view(-1, 2)
        partner = torch.empty_like(home)
        partner[order[:, 0]], partner[order[:, 1]] = order[:, 1], order[:, 0]
        return partner
