"""Gaps: how far two distributions are apart in the head and in the tail of the second."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.errors import SettingError


@dataclass(frozen=True)
class Gap:
    """``sum |p - q|`` over the head of p, the fewest most probable categories that hold ``mass``, or over the rest.

    Head and tail add up to twice the total variation.

    Args:
        mass: In (0, 1].
        tail: Over the rest.

    Source: arXiv:2404.02657.
    """

    mass: float = 0.5
    tail: bool = False
    needs_whole = True

    def __post_init__(self) -> None:
        if not 0 < self.mass <= 1:
            raise SettingError("Gap.mass", got=str(self.mass), expected="a share in (0, 1]", remedy="0.5 is usual.")

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        p, order = log_p.exp().sort(dim=-1, descending=True, stable=True)
        inside = (p.cumsum(-1) - p) < self.mass
        apart = (p - log_q.exp().gather(-1, order)).abs()
        return (apart * (~inside if self.tail else inside)).sum(-1)
