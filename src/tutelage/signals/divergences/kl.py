"""Kullback-Leibler divergences and the mixtures built on them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import SettingError


def relative_entropy(log_a: Tensor, log_b: Tensor) -> Tensor:
    """``sum_c a_c (log a_c - log b_c)`` with ``0 log 0 = 0``: Float[...].

    Categories of probability 0 under ``a`` add nothing; where ``b`` is 0 and ``a`` is not, the value is infinite.
    """
    value = (log_a.exp() * (log_a - log_b)).sum(-1)
    if not torch.isnan(value).any():
        return value
    # Rare: some a_c is exactly 0, and 0 * inf above is nan. Those categories leave both sides before any arithmetic,
    # so that their gradient is 0 as well.
    absent = torch.isneginf(log_a)
    log_a, log_b = log_a.masked_fill(absent, 0.0), log_b.masked_fill(absent, 0.0)
    return (log_a.exp().masked_fill(absent, 0.0) * (log_a - log_b)).sum(-1)


def kl_forward(log_q: Tensor, log_p: Tensor) -> Tensor:
    """``KL(p || q) = sum p (log p - log q)``: covers what the teacher covers. Gradient in q's logits: ``q - p``."""
    return relative_entropy(log_p, log_q)


def kl_reverse(log_q: Tensor, log_p: Tensor) -> Tensor:
    """``KL(q || p) = sum q (log q - log p)``: seeks the teacher's modes. Gradient: ``q (log q/p - KL)``."""
    return relative_entropy(log_q, log_p)


def cross_entropy(log_q: Tensor, log_p: Tensor) -> Tensor:
    """``-sum p log q``: ``KL(p || q)`` plus the entropy of p, with the same gradient; at ``q = p`` it is not 0.

    Categories of probability 0 under p add nothing, wherever q is.
    """
    value = -(log_p.exp() * log_q).sum(-1)
    if not torch.isnan(value).any():
        return value
    absent = torch.isneginf(log_p)
    return -(log_p.exp() * log_q.masked_fill(absent, 0.0)).sum(-1)


def cross_entropy_of_best(log_q: Tensor, log_p: Tensor) -> Tensor:
    """``-log q(argmax p)``: the cross-entropy with p's most probable category alone; at ``q = p`` it is not 0."""
    return -log_q.gather(-1, log_p.argmax(-1, keepdim=True)).squeeze(-1)


@dataclass(frozen=True)
class Jensen:
    """Generalised Jensen-Shannon divergence ``beta KL(p || m) + (1 - beta) KL(q || m)``, ``m = beta p + (1 - beta) q``.

    The ends are special cases, not limits: 0 is ``kl_forward`` and 1 is ``kl_reverse`` (as GKD defines them), while
    the expression itself tends to 0 there.

    Args:
        beta: In [0, 1]; the teacher's share of the mixture.

    Source: arXiv:2306.13649.
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        _share("Jensen.beta", self.beta)

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        if self.beta == 0:
            return kl_forward(log_q, log_p)
        if self.beta == 1:
            return kl_reverse(log_q, log_p)
        log_m = mixture(log_p, log_q, self.beta)
        return self.beta * relative_entropy(log_p, log_m) + (1 - self.beta) * relative_entropy(log_q, log_m)


@dataclass(frozen=True)
class SkewedForward:
    """``KL(p || alpha p + (1 - alpha) q)``: bounded, and finite where q is 0.

    Args:
        alpha: In [0, 1); 0 is ``kl_forward``.

    Source: arXiv:2402.03898.
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        _share("SkewedForward.alpha", self.alpha, open_end=True)

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        return relative_entropy(log_p, mixture(log_p, log_q, self.alpha))


@dataclass(frozen=True)
class SkewedReverse:
    """``KL(q || alpha q + (1 - alpha) p)``: bounded, and finite where p is 0.

    Args:
        alpha: In [0, 1); 0 is ``kl_reverse``.

    Source: arXiv:2402.03898.
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        _share("SkewedReverse.alpha", self.alpha, open_end=True)

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        return relative_entropy(log_q, mixture(log_q, log_p, self.alpha))


def mixture(log_a: Tensor, log_b: Tensor, share: float | Tensor) -> Tensor:
    """``log(share a + (1 - share) b)``, in log space; a share may be given for each unit: Float[...]."""
    if isinstance(share, Tensor):
        share = share.unsqueeze(-1)
        return torch.logaddexp(log_a + share.log(), log_b + torch.log1p(-share))
    if share == 0:
        return log_b
    if share == 1:
        return log_a
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


def _share(where: str, value: float, *, open_end: bool = False) -> None:
    if not 0 <= value <= 1 or (open_end and value == 1):
        raise SettingError(
            where,
            got=str(value),
            expected="a share in [0, 1" + (")" if open_end else "]"),
            remedy="Choose a value inside the range.",
        )
