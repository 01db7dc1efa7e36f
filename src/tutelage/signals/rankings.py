"""Rankings: how likely a Plackett-Luce model of one side's worths finds the other side's order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.errors import SettingError, unknown
from ..core.signal import Read, Signal

Weighing = Literal["confident", "even", "first"]


def remaining(worths: Tensor) -> Tensor:
    """``log sum_(l >= k) exp(w_l)``: the log of what is left to choose from at the k-th choice, Float[... K]."""
    return worths.flip(-1).logcumsumexp(-1).flip(-1)


def list_likelihood(log_q: Tensor, log_p: Tensor) -> Tensor:
    """``-log P(order of p)`` under a Plackett-Luce model with worths q, in nats: Float[...], >= 0.

    ``sum_k [log sum_(l >= k) exp(z_(c_l)) - z_(c_k)]`` over categories c_1, c_2 ... by falling p, with z the logits of
    q. It does not change when a constant is added to z, so log-probabilities serve as well as logits.

    Source: R. L. Plackett, The analysis of permutations, 1975; arXiv:2603.13260.
    """
    order = log_p.argsort(dim=-1, descending=True, stable=True)
    worths = log_q.gather(-1, order)
    return (remaining(worths) - worths).sum(-1)


@dataclass(frozen=True)
class RankedChoice(Signal):
    """``sum_k alpha_k [log sum_(l >= k) exp(z_(c_l)) - z_(c_k)]`` for the order: the data's target, then by falling p.

    z are the logits of q; alpha_k is what the teacher gives the k-th choice, without gradient. The first choice is
    cross-entropy with the target. With ``num_ranked`` only that many of the others are ranked; those left over stand
    behind them as one, with all their mass, so that every ranked choice is still one among everything.

    Args:
        temperature: Of the teacher's softmax that weighs the choices, > 0. The student's logits are not tempered.
        num_ranked: How many categories besides the target are ranked, >= 1; none ranks all.
        by: ``confident`` weighs by the teacher's softmax, ``even`` all alike (ListMLE, 1 / C each), ``first`` the first
            alone (cross-entropy).
        q: The learner's scores.
        p: The teacher's.

    Source: arXiv:2506.12542.
    """

    temperature: float = 1.0
    num_ranked: int | None = None
    by: Weighing = "confident"
    q: Read = Read("student")
    p: Read = Read("teacher")

    def __post_init__(self) -> None:
        if self.by not in ("confident", "even", "first"):
            raise unknown("RankedChoice.by", self.by, ("confident", "even", "first"))
        if not self.temperature > 0 or (self.num_ranked is not None and self.num_ranked < 1):
            raise SettingError(
                "RankedChoice",
                got=f"temperature={self.temperature}, num_ranked={self.num_ranked}",
                expected="a temperature > 0, and 1 or more ranked categories or none for all",
                remedy="1 for the temperature; 50 to 200 categories for a large vocabulary.",
            )

    def __call__(self, ctx: Asks) -> Tensor:
        log_q, log_p = ctx.log_probs(self.q), ctx.log_probs(self.p).detach()
        target = ctx.target(self.q.over).unsqueeze(-1)
        first = log_p.scatter(-1, target, torch.inf)
        count = first.shape[-1] if self.num_ranked is None else min(self.num_ranked + 1, first.shape[-1])
        order = first.topk(count, -1).indices if count < first.shape[-1] else first.argsort(-1, descending=True)
        worths = log_q.gather(-1, order)
        if count < log_q.shape[-1]:
            rest = log_q.scatter(-1, order, -torch.inf).logsumexp(-1, keepdim=True)
            worths = torch.cat([worths, rest], -1)
        # what the student excludes is a choice of nearly no worth: -inf - -inf is nan
        worths = worths.masked_fill(torch.isneginf(worths), torch.finfo(worths.dtype).min / 4)
        left = remaining(worths)
        return (self._weights(log_p, order) * (left - worths)[..., :count]).sum(-1)

    def _weights(self, log_p: Tensor, order: Tensor) -> Tensor:
        if self.by == "confident":
            return (log_p / self.temperature).softmax(-1).gather(-1, order)
        if self.by == "even":
            return torch.full_like(order, 1, dtype=log_p.dtype) / log_p.shape[-1]
        return torch.nn.functional.one_hot(torch.zeros_like(order[..., 0]), order.shape[-1]).to(log_p.dtype)
