"""Anything that speaks."""

from .blend import Blend
from .itself import Ema, Initial, Now, itself, snapshot
from .route import Route
from .says import Says

__all__ = ["Blend", "Ema", "Initial", "Now", "Route", "Says", "itself", "snapshot"]
