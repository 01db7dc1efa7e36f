"""The reward of a verifier, and what is worth watching beside it."""

from __future__ import annotations

from typing import Any

from ..data.live import Live
from .grades import Grade, find
from .grades.reward import RIGHT
from .pools import Alike, GroupNorm

ADVANTAGE = GroupNorm(RIGHT, epsilon=1e-6)
"""How much better than its group's others a row is, in deviations."""

WATCHED = (("right", RIGHT), ("all alike", Alike(RIGHT)))
"""How many are right, and how many rows are in groups that teach nothing because all are worth the same."""


def graded(ask: Any, verifier: str, *notes: Any, reuse: int = 1) -> Live:
    """Rounds of answers to ``train`` whose verifier's word is noted, and what else is to be noted of them.

    Args:
        ask: The step that writes.
        verifier: A verifier's name or file (``grades.find``).
        *notes: Further steps.
        reuse: Optimiser steps that use a round.
    """
    return Live(ask, Grade(find(verifier)), *notes, prompts="train", reuse=reuse)


__all__ = ["ADVANTAGE", "RIGHT", "WATCHED", "graded"]
