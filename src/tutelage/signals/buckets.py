"""Divergences over a few categories and one bucket for the rest, with their slope over all categories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.context import Tile
from ..core.scores import log_rest
from ..core.signal import Read
from .divergences.closed import Side

Compare = Callable[[Tensor, Tensor], Tensor]


def bucketed(log_probs: Tensor, rest: str) -> Tensor:
    """Kept log-probabilities Float[... K] with what happens to the rest: one more bucket, rescaled, or as they are."""
    if rest == "renormalise":
        return log_probs.log_softmax(-1)
    if rest == "drop":
        return log_probs
    return torch.cat([log_probs, log_rest(log_probs).unsqueeze(-1)], -1)


@dataclass(frozen=True)
class BucketSlope:
    """Any divergence over the teacher's k categories and the rest, and its slope in all of the student's logits.

    Autograd sees only the kept log-probabilities ``l_i = z_i - log Z``; with ``g_i`` the derivative by them,
    ``d value / d z = g - q sum_i g_i``, where ``g`` is 0 outside the kept categories: one softmax, one gather and one
    scatter of a row instead of several passes.

    Args:
        compare: The divergence.
        p: The teacher's read.
        k: How many categories.
        rest: As in ``Top``.
    """

    compare: Compare
    p: Read
    k: int
    rest: str

    def __call__(self, tile: Tile, logits: Tensor) -> tuple[Tensor, Tensor]:
        log_p, ids = tile.top(self.p, self.k)
        q = Side.of(logits)
        rest = "drop" if self.rest == "tail" and ids.shape[-1] >= logits.shape[-1] else self.rest
        with torch.enable_grad():
            log_q = ((logits.gather(-1, ids) - q.top) + q.log_share).requires_grad_()
            value = self.compare(bucketed(log_q, rest), bucketed(log_p.to(log_q.dtype), rest))
            (by_kept,) = torch.autograd.grad(value.sum(), log_q)
        slope = q.share.mul_(-by_kept.sum(-1, keepdim=True))
        return value.detach(), slope.scatter_add_(-1, ids, by_kept)
