"""Noise on what a teacher says: how much of a gain hangs on its exact probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import NeedError, SettingError
from ..core.scores import Rows, Scores
from .private import Seeded, context_seeds


@dataclass(frozen=True)
class LogitNoise:
    """Scores whose logits have independent normal noise: ``log softmax(z + s n)``.

    n is a function of ``key`` and of the last 16 tokens before the unit: the same in every epoch, batch and split, so a
    run that goes on sees the same teacher.

    Args:
        deviation: s, > 0, in nats.
        key: Tells several noises apart.

    Raises:
        NeedError: When read: features and not scores.

    Source: arXiv:2505.15442.
    """

    deviation: float
    key: str = "tutelage"

    def __post_init__(self) -> None:
        if not 0 < self.deviation < 1e4:
            raise SettingError(
                "LogitNoise.deviation", got=str(self.deviation), expected="a number > 0", remedy="1, 2 and 5 are usual."
            )

    def __call__(self, value: Any, ctx: Any) -> Scores:
        if not isinstance(value, Scores):
            raise NeedError("LogitNoise", got="features", expected="scores", remedy="Read 'next'.")
        return Shaken(value, tuple(context_seeds(ctx, self.key)), self.deviation)


@dataclass(frozen=True, eq=False)
class Shaken(Seeded):
    """``log softmax(log p + s n)`` with n drawn from each unit's seed.

    Args:
        deviation: s.
    """

    deviation: float

    def at(self, rows: Rows) -> Tensor:
        log_p = self.of.at(rows)
        draws = [torch.randn(log_p.shape[-1], generator=torch.Generator().manual_seed(s)) for s in self.seeds[rows]]
        noise = torch.stack(draws).to(log_p) if draws else torch.zeros_like(log_p)
        return (log_p + self.deviation * noise).log_softmax(-1)
