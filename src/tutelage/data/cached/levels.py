"""Ladders: log-probabilities as whole numbers, with steps where a divergence feels them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...core.errors import SettingError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LOWEST_NATS = -60.0
ABSENT = 0
"""The level of probability 0."""

TAIL_STEPS = 64
TAIL_NATS = 16
NUM_TAILS = 2 * TAIL_NATS * TAIL_STEPS + 1


@dataclass(frozen=True)
class Ladder:
    """Log-probabilities ``x`` as levels ``floor(u(x))``, ``u(x) = x / coarse + 2 exp(x / 2) / fine``.

    A step is ``1 / u'(x)``: at most ``coarse`` nats anywhere, and at most ``fine / sqrt(p)``. A uniform error in a step
    adds about ``p step^2 / 24 <= fine^2 / 24`` nats to ``KL(p, decoded)`` for each category. Level 0 is probability 0.

    Args:
        coarse: The widest step, in nats, > 0.
        fine: The step at probability 1, in nats, > 0.
    """

    coarse: float = 0.125
    fine: float = 0.01

    def __post_init__(self) -> None:
        if not (0 < self.coarse <= 8 and 1e-4 <= self.fine <= 8):
            raise SettingError(
                "Ladder",
                got=f"coarse={self.coarse}, fine={self.fine}",
                expected="coarse in (0, 8] and fine in [1e-4, 8] nats",
                remedy="0.125 and 0.01 are usual.",
            )

    @property
    def size(self) -> int:
        """The number of levels, that of probability 0 included."""
        return int(np.ceil(self._u(np.zeros(1))[0])) + 1

    def level(self, log_probs: Floats) -> Ints:
        """The levels of log-probabilities."""
        inside = np.clip(log_probs, LOWEST_NATS, 0.0)
        found = np.minimum(np.floor(self._u(inside)).astype(np.int64) + 1, self.size - 1)
        return np.where(np.isneginf(log_probs), ABSENT, found)

    def value(self, levels: Ints) -> Floats:
        """The log-probability in the middle of each level's step."""
        return _middles(self)[levels]

    def _u(self, x: Floats) -> Floats:
        lowest = LOWEST_NATS / self.coarse + 2 * np.exp(LOWEST_NATS / 2) / self.fine
        return x / self.coarse + 2 * np.exp(x / 2) / self.fine - lowest


@lru_cache(maxsize=16)
def _middles(ladder: Ladder) -> Floats:
    """By level, the solution of ``u(x) = level - 1/2``, by bisection; -inf for the level of probability 0."""
    wanted = np.arange(ladder.size) - 0.5
    low, high = np.full(len(wanted), LOWEST_NATS), np.full(len(wanted), 1.0)
    for _ in range(64):
        middle = (low + high) / 2
        below = ladder._u(middle) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    out = np.minimum(low, 0.0)
    out[ABSENT] = -np.inf
    return out


def tail_level(log_rest: Floats) -> Ints:
    """The mass of the rest as its rounded log-odds, in steps of 1/64; 0 for no rest: Int[...].

    Args:
        log_rest: Float[...], the logarithm of the mass.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = log_rest - np.log(-np.expm1(np.minimum(log_rest, 0.0)))
    inside = np.clip(odds, -TAIL_NATS + 1 / TAIL_STEPS, TAIL_NATS)
    found = np.rint((inside + TAIL_NATS) * TAIL_STEPS).astype(np.int64)
    return np.where(odds <= -TAIL_NATS, 0, found)


def tail_value(levels: Ints) -> tuple[Floats, Floats]:
    """The logarithms of the rest's mass and of the kept mass, which add up to 1."""
    odds = levels / TAIL_STEPS - TAIL_NATS
    rest = np.where(levels == 0, -np.inf, -np.logaddexp(0.0, -odds))
    return rest, np.where(levels == 0, 0.0, -np.logaddexp(0.0, odds))


def log_sum(log_probs: Floats) -> Floats:
    """``log sum exp`` over the last axis; -inf where nothing has mass: Float[...]."""
    if log_probs.shape[-1] == 0:
        return np.full(log_probs.shape[:-1], -np.inf)
    most = log_probs.max(-1)
    safe = np.where(np.isneginf(most), 0.0, most)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(log_probs - safe[..., None]).sum(-1)) + safe
