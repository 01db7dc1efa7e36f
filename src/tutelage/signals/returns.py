"""Returns: what a token does for those that follow it."""

from __future__ import annotations

from ..core.signal import Noted, Signal
from .importance import Whitened
from .pools import ToGo
from .readouts import gap

ADVANTAGE = Noted("advantage")


def to_go() -> Signal:
    """The mean ``log p(y) - log q(y)`` of the tokens that strictly follow, whitened over the round: Float[U].

    Beside the exact reverse KL of the token itself it is the gradient of the reverse KL of whole answers, normalised by
    length.

    Source: arXiv:2306.08543.
    """
    return Whitened(ToGo(gap(), mean=True))
