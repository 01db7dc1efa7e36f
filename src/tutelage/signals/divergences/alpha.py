"""Divergences of power type, and total variation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import SettingError
from .kl import kl_forward, kl_reverse


@dataclass(frozen=True)
class Alpha:
    """``(sum p^alpha q^(1 - alpha) - 1) / (alpha (alpha - 1))``; 1 is ``kl_forward`` and 0 is ``kl_reverse``.

    Args:
        alpha: Any finite number. 2 is half of Pearson's chi squared, 0.5 is four times the squared Hellinger distance.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not abs(self.alpha) < 1e3:
            raise SettingError(
                "Alpha.alpha", got=str(self.alpha), expected="a finite number", remedy="Choose e.g. 0.5."
            )

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        if self.alpha == 1:
            return kl_forward(log_q, log_p)
        if self.alpha == 0:
            return kl_reverse(log_q, log_p)
        a = self.alpha
        # sum p^a q^(1-a) - 1 = sum p (exp((1-a)(log q - log p)) - 1): expm1 keeps the digits when q is close to p.
        log_ratio = log_q - log_p
        value = (log_p.exp() * torch.expm1((1 - a) * log_ratio)).sum(-1)
        if torch.isnan(value).any() or torch.isinf(value).any():
            value = _power_sum(log_p, log_q, a) - 1
        return value / (a * (a - 1))


@dataclass(frozen=True)
class Renyi:
    """``log(sum p^alpha q^(1 - alpha)) / (alpha - 1)``; 1 is ``kl_forward``.

    Args:
        alpha: > 0.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1e3:
            raise SettingError("Renyi.alpha", got=str(self.alpha), expected="a number > 0", remedy="Choose e.g. 0.5.")

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        if self.alpha == 1:
            return kl_forward(log_q, log_p)
        exponent = self.alpha * log_p + (1 - self.alpha) * log_q
        absent = torch.isneginf(log_p) & torch.isneginf(log_q)
        return exponent.masked_fill(absent, -torch.inf).logsumexp(-1) / (self.alpha - 1)


def total_variation(log_q: Tensor, log_p: Tensor) -> Tensor:
    """``0.5 sum |p - q|``, in [0, 1]."""
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def hellinger(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Squared Hellinger distance ``0.5 sum (sqrt p - sqrt q)^2``, in [0, 1]."""
    return 0.5 * ((0.5 * log_p).exp() - (0.5 * log_q).exp()).square().sum(-1)


def _power_sum(log_p: Tensor, log_q: Tensor, a: float) -> Tensor:
    """``sum p^a q^(1-a)`` where some category is exactly 0: those without p leave, except where q is raised above 1."""
    absent = torch.isneginf(log_p) if a > 0 else torch.isneginf(log_q)
    exponent = a * log_p.masked_fill(absent, 0.0) + (1 - a) * log_q.masked_fill(absent, 0.0)
    return exponent.exp().masked_fill(absent, 0.0).sum(-1)
