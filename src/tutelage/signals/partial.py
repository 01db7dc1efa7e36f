"""Comparisons that leave something out of a divergence: no promise that they are >= 0, or 0 only at equality."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import SettingError
from .divergences import kl_forward


@dataclass(frozen=True)
class CappedForward:
    """``sum_c min(p_c (log p_c - log q_c), cap)``: forward KL whose every category adds at most ``cap`` nats.

    A category at the cap gets no gradient, so that a few tokens of style cannot outweigh the rest.

    Args:
        cap_nats: > 0; infinite is ``kl_forward``.
    """

    cap_nats: float = math.inf

    def __post_init__(self) -> None:
        if not self.cap_nats > 0:
            raise SettingError(
                "CappedForward.cap_nats", got=str(self.cap_nats), expected="a number > 0", remedy="0.1 to 1 is usual."
            )

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        if math.isinf(self.cap_nats):
            return kl_forward(log_q, log_p)
        absent = torch.isneginf(log_p)
        # both sides leave where p is 0, before any arithmetic: 0 * inf is nan
        log_q, log_p = log_q.masked_fill(absent, 0.0), log_p.masked_fill(absent, 0.0)
        parts = (log_p.exp() * (log_p - log_q)).masked_fill(absent, 0.0)
        return parts.clamp(max=self.cap_nats).sum(-1)
