"""Where a chain of steps runs: in this process, in threads of it, or on a Ray cluster. What comes out is the same."""

from .local import Engine, Local
from .spread import Spread

__all__ = ["Engine", "Local", "Spread"]
