"""The code that a store writes with: fitted to what it has seen, anew when that was much more than before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .code import Code, Encoder, fitted

MOST = 1 << 15


class Coding:
    """The current code, and a sample of rows for the next.

    Args:
        code: What to begin with: the newest there is, or one that nothing was counted for.
        put: Gives a row to an encoder.
        first: Positions seen before the first code is fitted.
        growth: How many times the positions of a code are seen before the next.
    """

    def __init__(self, code: Code, put: Callable[[Encoder, Any], None], first: int = 512, growth: int = 8) -> None:
        self.code, self.put, self.first, self.growth = code, put, first, growth
        self._seen: list[Any] = []
        self._num_seen = 0

    def see(self, rows: Sequence[Any], num_positions: int) -> Code:
        """The code for rows that are about to be written."""
        if self.code.num_positions >= MOST:
            self._seen = []
            return self.code
        self._seen += rows
        self._num_seen += num_positions
        if self._num_seen >= max(self.first, self.growth * self.code.num_positions):
            self.code = fitted(self.code.size, self._seen, self.put, self._num_seen)
        return self.code
