"""Anything that speaks."""

from .blend import Blend
from .confident import Confident
from .itself import Ema, Initial, Now, itself, snapshot
from .route import Route
from .says import Says

__all__ = ["Blend", "Confident", "Ema", "Initial", "Now", "Route", "Says", "itself", "snapshot"]
