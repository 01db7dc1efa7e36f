"""Closed forms: a divergence and its slope in the learner's logits, worked out from probabilities without autograd.

Let ``q = softmax(z_q)``, ``p = softmax(z_p)``. Each form takes logits ``z_q, z_p`` Float[k C], to which any constant a
row may be added, and gives the values Float[k] and ``d value / d z_q`` Float[k C], a tensor of its own. A category that
one side excludes (a logit of -inf) makes a value nan: the caller then takes the general road, which handles it.

For ``D = sum_c f(q_c, p_c)`` the slope is ``q (g - sum_c q_c g_c)`` with ``g = df/dq``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .kl import Jensen, SkewedForward, SkewedReverse, cross_entropy, kl_forward, kl_reverse
from .temper import Tempered

Form = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def closed_form(compare: Callable[[Tensor, Tensor], Tensor]) -> Form | None:
    """The closed form of a divergence, or None."""
    if isinstance(compare, Tempered):
        inner = closed_form(compare.divergence)
        return None if inner is None else _tempered(inner, compare.temperature, compare.scaled)
    if isinstance(compare, Jensen):
        ends = {0.0: _kl_forward, 1.0: _kl_reverse}
        return ends.get(compare.beta) or _jensen(compare.beta)
    if isinstance(compare, SkewedForward):
        return _skewed_forward(compare.alpha) if compare.alpha else _kl_forward
    if isinstance(compare, SkewedReverse):
        return _skewed_reverse(compare.alpha) if compare.alpha else _kl_reverse
    forms: dict[object, Form] = {kl_forward: _kl_forward, kl_reverse: _kl_reverse, cross_entropy: _cross_entropy}
    return forms.get(compare)


class Side(NamedTuple):
    """One side of a comparison: ``softmax(z)`` Float[k C]; the largest logit and the log of its share, Float[k 1].

    The normaliser ``log sum exp z = top - log_share`` is read off the most probable category, which costs a third of a
    second pass of exponentials. Kept apart, the two lose nothing where two sides are compared.
    """

    share: Tensor
    top: Tensor
    log_share: Tensor

    @classmethod
    def of(cls, z: Tensor) -> Side:
        """The side that these logits give."""
        share = z.softmax(-1)
        return cls(share, z.amax(-1, keepdim=True), share.amax(-1, keepdim=True).log_())

    @property
    def norm(self) -> Tensor:
        """``log sum exp z`` Float[k 1]."""
        return self.top - self.log_share


def _log_ratio(z_a: Tensor, a: Side, z_b: Tensor, b: Side) -> Tensor:
    """``log a/b`` Float[k C], exact to rounding of its own size where the sides are close."""
    return (z_a - z_b).sub_((a.top - b.top) - (a.log_share - b.log_share))


def _excess(log_ratio: Tensor, share: float) -> Tensor:
    """``e = share (r - 1)`` for a ratio ``r = b/a``, so that ``m/a = 1 + e`` for ``m = share b + (1 - share) a``.

    Beyond e^80 the share of a is 0 in float32, and what e adds is multiplied by it.
    """
    return log_ratio.clamp(max=80.0).expm1_().mul_(share)


def _kl_forward(z_q: Tensor, z_p: Tensor) -> tuple[Tensor, Tensor]:
    q, p = Side.of(z_q), Side.of(z_p)
    return _log_ratio(z_p, p, z_q, q).mul_(p.share).sum(-1), q.share.sub_(p.share)


def _cross_entropy(z_q: Tensor, z_p: Tensor) -> tuple[Tensor, Tensor]:
    q, p = Side.of(z_q), z_p.softmax(-1)
    return (q.norm - z_q).mul_(p).sum(-1), q.share.sub_(p)


def _kl_reverse(z_q: Tensor, z_p: Tensor) -> tuple[Tensor, Tensor]:
    q, p = Side.of(z_q), Side.of(z_p)
    log_ratio = _log_ratio(z_q, q, z_p, p)
    value = torch.mul(q.share, log_ratio, out=p.share).sum(-1)
    return value, log_ratio.sub_(value.unsqueeze(-1)).mul_(q.share)


def _jensen(beta: float) -> Form:
    """``beta KL(p || m) + (1 - beta) KL(q || m)``; slope ``(1 - beta) q (log q/m - KL(q || m))``."""

    def form(z_q: Tensor, z_p: Tensor) -> tuple[Tensor, Tensor]:
        q, p = Side.of(z_q), Side.of(z_p)
        log_ratio = _log_ratio(z_p, p, z_q, q).clamp_(max=80.0)
        over_q = _excess(log_ratio, beta).log1p_()  # log m/q
        of_p = log_ratio.sub_(over_q).mul_(p.share).sum(-1)
        of_q = torch.mul(q.share, over_q, out=p.share).sum(-1).neg_()
        slope = over_q.add_(of_q.unsqueeze(-1)).mul_(q.share).mul_(beta - 1)
        return beta * of_p + (1 - beta) * of_q, slope

    return form


def _skewed_forward(alpha: float) -> Form:
    """``KL(p || m)``, ``m = alpha p + (1 - alpha) q``; slope ``u - q sum u`` with ``u = -(1 - alpha) q p / m``."""

    def form(z_q: Tensor, z_p: Tensor) -> tuple[Tensor, Tensor]:
        q, p = Side.of(z_q), Side.of(z_p)
        over_p = _excess(_log_ratio(z_q, q, z_p, p), 1 - alpha)  # m/p - 1
        u = (q.share / (1 + over_p)).mul_(alpha - 1)
        value = over_p.log1p_().mul_(p.share).sum(-1).neg_()
        return value, u.sub_(q.share.mul_(u.sum(-1, keepdim=True)))

    return form


def _skewed_reverse(alpha: float) -> Form:
    """``KL(q || m)``, ``m = alpha q + (1 - alpha) p``; slope ``u - q sum u`` with ``u = q (log q/m - alpha q / m)``."""

    def form(z_q: Tensor, z_p: Tensor) -> tuple[Tensor, Tensor]:
        q, p = Side.of(z_q), Side.of(z_p)
        over_q = _excess(_log_ratio(z_p, p, z_q, q), 1 - alpha)  # m/q - 1
        part = (q.share / (1 + over_q)).mul_(alpha)
        u = over_q.log1p_().mul_(q.share).neg_()
        value = u.sum(-1)
        u.sub_(part)
        return value, u.sub_(q.share.mul_(u.sum(-1, keepdim=True)))

    return form


def _tempered(inner: Form, temperature: float, scaled: bool) -> Form:
    factor = temperature**2 if scaled else 1.0

    def form(z_q: Tensor, z_p: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = inner(z_q / temperature, z_p / temperature)
        return value.mul_(factor), slope.mul_(factor / temperature)

    return form if temperature != 1 else inner
