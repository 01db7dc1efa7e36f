"""Comparing what two models look at: attention scores Float[P A T] of P queries, A heads and T keys.

The scores are scaled and before the softmax, -inf at keys that a query does not see (padding, later tokens, other rows
of the line). These are left out before anything is subtracted, so neither padding nor packing changes a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import NeedError


def score_error(q: Tensor, p: Tensor) -> Tensor:
    """Mean squared difference of the scores, over heads and the keys that a query sees: Float[P A T] -> Float[P].

    Raises:
        NeedError: The two have other numbers of heads.
    """
    _same_heads(q, p)
    unseen = torch.isneginf(p)
    square = (q.masked_fill(unseen, 0.0) - p.masked_fill(unseen, 0.0)).square()
    return square.sum((-1, -2)) / (~unseen).sum((-1, -2))


@dataclass(frozen=True)
class EachHead:
    """A divergence of the attention probabilities of each head, a mean over heads: Float[P A T] -> Float[P].

    Args:
        divergence: Of log-probabilities, ``(log_q, log_p) Float[... T] -> Float[...]``.

    Raises:
        NeedError: The two have other numbers of heads.
    """

    divergence: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, q: Tensor, p: Tensor) -> Tensor:
        _same_heads(q, p)
        return self.divergence(q.log_softmax(-1), p.log_softmax(-1)).mean(-1)


@dataclass(frozen=True)
class AverageHeads:
    """A lens: the logarithm of the probabilities averaged over heads, Float[P A T] -> Float[P T]; -inf stays -inf.

    It makes models with other numbers of heads comparable.
    """

    def __call__(self, value: Tensor, ctx: Any) -> Tensor:
        unseen = torch.isneginf(value).all(1)
        mean = value.log_softmax(-1).masked_fill(unseen.unsqueeze(1), 0.0).logsumexp(1) - math.log(value.shape[1])
        return mean.masked_fill(unseen, -torch.inf)


def _same_heads(q: Tensor, p: Tensor) -> None:
    if q.shape[-2] != p.shape[-2]:
        raise NeedError(
            "attention, head by head",
            got=f"{q.shape[-2]} and {p.shape[-2]} heads",
            expected="as many of one as of the other",
            remedy='Average over heads first (attention="average"), or cut the student out by layers alone.',
        )
