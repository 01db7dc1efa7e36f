"""Anything that speaks."""

from .blend import Blend
from .itself import Ema, snapshot
from .says import Says

__all__ = ["Blend", "Ema", "Says", "snapshot"]
