"""The f-divergences in one frame: ``D(p || q) = sum q f(u)``, ``u = p / q``, f convex with ``f(1) = 0``.

In the learner's logits z the slope is ``dD / dz_j = q_j (g_j - sum_v q_v g_v)`` with ``g = f(u) - u f'(u)``. What is
trained on are the closed forms of this package, in logarithms; the generators are what they are held against, and what
tells which divergence is which: p is the teacher, so ``u log u`` gives forward KL. Others write ``q / p``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import SettingError, unknown
from .alpha import Alpha, hellinger, total_variation
from .kl import Jensen, SkewedForward, SkewedReverse, kl_forward, kl_reverse

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Member:
    """One f-divergence.

    Args:
        compare: Its closed form, ``(log_q, log_p) Float[... C] -> Float[...]``.
        f: The generator.
        g: ``f - u f'``, up to a constant.
        most: Its largest value; infinite where there is none.
    """

    compare: Callable[[Tensor, Tensor], Tensor]
    f: Function
    g: Function
    most: float = float("inf")


def chi_squared(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Pearson's ``sum (p - q)^2 / q``: punishes most what the teacher does and the student does not; unbounded."""
    return 2 * Alpha(2)(log_q, log_p)


def squared_hellinger(log_q: Tensor, log_p: Tensor) -> Tensor:
    """``sum (sqrt p - sqrt q)^2``, in [0, 2]: twice ``hellinger``."""
    return 2 * hellinger(log_q, log_p)


def _jensen(b: float) -> Member:
    if b in (0, 1):
        return member("kl_reverse" if b else "kl_forward")
    most = -b * torch.tensor(b).log() - (1 - b) * torch.tensor(1 - b).log()
    return Member(
        Jensen(b),
        lambda u: b * u * (u / (b * u + 1 - b)).log() - (1 - b) * (b * u + 1 - b).log(),
        lambda u: -(1 - b) * (b * u + 1 - b).log(),
        float(most),
    )


def _skewed_forward(a: float) -> Member:
    return Member(
        SkewedForward(a),
        lambda u: u * (u / (a * u + 1 - a)).log(),
        lambda u: -(1 - a) * u / (a * u + 1 - a),
        -float(torch.tensor(a).log()),
    )


def _skewed_reverse(a: float) -> Member:
    return Member(
        SkewedReverse(a),
        lambda u: -(a + (1 - a) * u).log(),
        lambda u: -(a + (1 - a) * u).log() + (1 - a) * u / (a + (1 - a) * u),
        -float(torch.tensor(a).log()),
    )


def _alpha(a: float) -> Member:
    if a in (0, 1):
        return member("kl_forward" if a else "kl_reverse")
    return Member(Alpha(a), lambda u: (u**a - a * u - 1 + a) / (a * (a - 1)), lambda u: (1 - u**a) / a)


PLAIN = {
    "kl_forward": Member(kl_forward, lambda u: u * u.log(), lambda u: -u),
    "kl_reverse": Member(kl_reverse, lambda u: -u.log(), lambda u: 1 - u.log()),
    "total_variation": Member(total_variation, lambda u: 0.5 * (u - 1).abs(), lambda u: 0.5 * (1 - u).sign(), most=1.0),
    "chi_squared": Member(chi_squared, lambda u: (u - 1).square(), lambda u: 1 - u.square()),
    "squared_hellinger": Member(squared_hellinger, lambda u: (u.sqrt() - 1).square(), lambda u: 1 - u.sqrt(), most=2.0),
}
SHARED: dict[str, Callable[[float], Member]] = {
    "jensen": _jensen,
    "skewed_forward": _skewed_forward,
    "skewed_reverse": _skewed_reverse,
    "alpha": _alpha,
}


def member(name: str, share: float = 0.5) -> Member:
    """An f-divergence by its name.

    Args:
        name: ``kl_forward``, ``kl_reverse``, ``total_variation``, ``chi_squared``, ``squared_hellinger``, ``jensen``,
            ``skewed_forward``, ``skewed_reverse`` or ``alpha``.
        share: The last four's number: the teacher's share beta of the mixture, the share alpha of a side in its own
            mixture, or the power alpha.

    Raises:
        UnknownName: Another name; near matches are listed.
        SettingError: A share outside its range.

    Source: arXiv:2604.00626.
    """
    if name in PLAIN:
        return PLAIN[name]
    if name not in SHARED:
        raise unknown("divergence", name, [*PLAIN, *SHARED])
    if name != "alpha" and not 0 <= share <= 1:
        raise SettingError(f"{name}", got=str(share), expected="a share in [0, 1]", remedy="0.5 is even.")
    return SHARED[name](share)
