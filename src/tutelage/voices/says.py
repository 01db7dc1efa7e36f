"""A model slot that speaks."""

from ..core.voice import Says

__all__ = ["Says"]
