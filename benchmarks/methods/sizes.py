"""How large the bench is: models, data, updates and what is measured."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A Llama from scratch, trained on the data's answers before the bench begins.

    Args:
        width: Of the stream; a head has 32 channels, the gated unit 8/3 times the width.
        layers: Blocks.
        steps: Updates of 64 rows.
        learning_rate: The peak; it falls to 0.
        rows: The split that it learns from.
    """

    width: int
    layers: int
    steps: int
    learning_rate: float
    rows: str


@dataclass(frozen=True)
class Sizes:
    """Everything that figures depend on, apart from recipes and their settings.

    Args:
        splits: Questions of each family in each split; ``teach`` is the teacher's.
        vocabulary: Tokens at most.
        teacher: Trained once.
        student: What each arm starts from, one a seed.
        updates: Optimiser steps of the student in an arm.
        rows: Rows an update, rollouts counted.
        learning_rate: The peak of each arm, 5 % warm-up, then a line to 0.
        max_tokens: The longest answer.
        scored: Test problems of each family that are answered ``samples`` times as well.
        samples: Those answers, at temperature 1.
        most: The compute arm takes at most so many times the updates.
        ladder: Shares of the updates at which a few recipes are measured for their speed.
    """

    splits: tuple[tuple[str, int], ...]
    vocabulary: int
    teacher: Shape
    student: Shape
    updates: int
    rows: int
    learning_rate: float
    max_tokens: int = 64
    scored: int = 48
    samples: int = 8
    most: float = 4.0
    ladder: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5)

    @property
    def key(self) -> str:
        """A fingerprint of all of it."""
        return fingerprint(asdict(self))

    @property
    def base_key(self) -> str:
        """A fingerprint of what data and teacher depend on."""
        return fingerprint([self.splits, self.vocabulary, asdict(self.teacher)])

    @property
    def start_key(self) -> str:
        """A fingerprint of what the student's start depends on besides data."""
        return fingerprint(asdict(self.student))


FULL = Sizes(
    splits=(("test", 128), ("validation", 32), ("train", 512), ("teach", 6000)),
    vocabulary=512,
    teacher=Shape(128, 4, 900, 3e-3, "teach"),
    student=Shape(96, 3, 400, 3e-3, "train"),
    updates=60,
    rows=16,
    learning_rate=5e-4,
    max_tokens=56,
    scored=32,
)
QUICK = replace(
    FULL,
    splits=(("test", 4), ("validation", 4), ("train", 12), ("teach", 12)),
    vocabulary=400,
    teacher=Shape(32, 2, 2, 2e-3, "teach"),
    student=Shape(32, 2, 2, 2e-3, "train"),
    updates=4,
    rows=4,
    max_tokens=4,
    scored=2,
    samples=2,
    ladder=(0.5,),
)


def fingerprint(value: Any) -> str:
    """Of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
