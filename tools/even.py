"""A verifier for short trials: right is an answer of an even number of characters, which half of any answers have."""

from __future__ import annotations

from typing import Any


def even(record: Any) -> float:
    """1 or 0."""
    return float(sum(len(piece.content) for piece in record.trained()) % 2 == 0)
