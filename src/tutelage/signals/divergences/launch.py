"""Which divergences a kernel knows, and where kernels can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from ...core.scores import Head
from .kl import Jensen, SkewedForward, SkewedReverse, kl_forward, kl_reverse
from .temper import Tempered

Divisors = tuple[Tensor | None, Tensor | None]
FORWARD, REVERSE, JENSEN, SKEWED_FORWARD, SKEWED_REVERSE = range(5)


@dataclass(frozen=True)
class Launch:
    """What a kernel is told of a divergence.

    Args:
        shape: Which closed form.
        share: Its ``beta`` or ``alpha``.
        temperature: Divides both sides' logits.
        factor: Multiplies the values.
    """

    shape: int
    share: float = 0.0
    temperature: float = 1.0
    factor: float = 1.0

    def __call__(
        self,
        raw_q: Tensor,
        head_q: Head,
        raw_p: Tensor,
        head_p: Head,
        coefficients: Tensor,
        by: Divisors = (None, None),
    ) -> Tensor:
        """Values Float[k]; overwrites ``raw_q`` with ``coefficient * d value / d raw_q``.

        Args:
            raw_q: Float32[k C], the learner's raw logits, rows contiguous.
            head_q: The learner's head, for its scale and cap.
            raw_p: Float32[k C], the other side's raw logits.
            head_p: Its head.
            coefficients: Float[k].
            by: What divides each side's logits beside the temperature, Float[k], or None.
        """
        from .kernels import fuse

        return fuse(self, raw_q, head_q, raw_p, head_p, coefficients, by)


def launch_of(compare: Callable[[Tensor, Tensor], Tensor]) -> Launch | None:
    """The launch of a divergence, None where there is no kernel for it."""
    if isinstance(compare, Tempered):
        inner = launch_of(compare.divergence)
        if inner is None or inner.temperature != 1:
            return None
        factor = compare.temperature**2 if compare.scaled else 1.0
        return Launch(inner.shape, inner.share, compare.temperature, factor)
    if isinstance(compare, Jensen):
        ends = {0.0: Launch(FORWARD), 1.0: Launch(REVERSE)}
        return ends.get(compare.beta, Launch(JENSEN, compare.beta))
    if isinstance(compare, SkewedForward):
        return Launch(SKEWED_FORWARD, compare.alpha) if compare.alpha else Launch(FORWARD)
    if isinstance(compare, SkewedReverse):
        return Launch(SKEWED_REVERSE, compare.alpha) if compare.alpha else Launch(REVERSE)
    plain: dict[object, Launch] = {kl_forward: Launch(FORWARD), kl_reverse: Launch(REVERSE)}
    return plain.get(compare)


def usable(raw: Tensor) -> bool:
    """Whether kernels can run where these logits are."""
    return raw.is_cuda and raw.dtype == torch.float32 and find_spec("triton") is not None
