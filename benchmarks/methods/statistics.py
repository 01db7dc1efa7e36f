"""Intervals over seeds and test items, and who beats whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
# the 97.5 % point of Student's t by degrees of freedom; 1.96 beyond
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def turned(self) -> Interval:
        """Of the negative."""
        return Interval(-self.mean, -self.high, -self.low)


def student(values: Sequence[float]) -> Interval:
    """Over seeds by Student's t; one seed has no bounds."""
    if len(values) < 2:
        return Interval(mean(values), -math.inf, math.inf)
    half = STUDENT.get(len(values) - 1, 1.96) * stdev(values) / math.sqrt(len(values))
    return Interval(mean(values), mean(values) - half, mean(values) + half)


@dataclass
class Figures:
    """Results by recipe, arm and seed.

    Accuracies are compared by a bootstrap over seeds and test items; each resample takes the same seeds and items of
    every recipe, so that differences are paired. Other figures are compared by Student's t over seeds.

    Args:
        results: What jobs kept.
    """

    results: Sequence[Mapping[str, Any]]
    _drawn: dict[Any, NDArray[np.float64]] = field(default_factory=dict)

    def recipes(self, arm: str) -> list[str]:
        """Those measured with all seeds that any recipe of the arm has, in order."""
        found: dict[str, set[int]] = {}
        for r in self.results:
            if r["arm"] == arm:
                found.setdefault(r["recipe"], set()).add(r["seed"])
        most = max(map(len, found.values()), default=0)
        return [name for name, seeds in found.items() if len(seeds) == most]

    def of(self, arm: str, recipe: str) -> list[Mapping[str, Any]]:
        """A recipe's results by seed."""
        some = [r for r in self.results if r["arm"] == arm and r["recipe"] == recipe]
        return sorted(some, key=lambda r: r["seed"])

    def values(self, arm: str, recipe: str, figure: str) -> list[float]:
        """A figure by seed."""
        return [float(r[figure]) for r in self.of(arm, recipe)]

    def interval(self, arm: str, recipe: str, figure: str = "accuracy") -> Interval:
        """A figure's mean and interval."""
        values = self.values(arm, recipe, figure)
        if figure != "accuracy":
            return student(values)
        return _bounds(mean(values), self._resampled(arm, recipe))

    def gap(self, arm: str, one: str, other: str, figure: str = "accuracy") -> Interval:
        """The paired difference of two recipes."""
        pairs = zip(self.values(arm, one, figure), self.values(arm, other, figure), strict=True)
        gaps = [a - b for a, b in pairs]
        if figure != "accuracy":
            return student(gaps)
        return _bounds(mean(gaps), self._resampled(arm, one) - self._resampled(arm, other))

    def beats(self, arm: str, one: str, other: str) -> int:
        """1 if the accuracy is higher, -1 if it is lower, 0 if the interval of the difference holds 0."""
        gap = self.gap(arm, one, other)
        return int(gap.low > 0) - int(gap.high < 0)

    def _resampled(self, arm: str, recipe: str) -> NDArray[np.float64]:
        """The accuracy in each resample of seeds and items."""
        if (arm, recipe) not in self._drawn:
            right = np.array([[int(x) for x in r["right"]] for r in self.of(arm, recipe)], dtype=np.float64)
            seeds, items = right.shape
            chance = np.random.default_rng(0)
            of_seeds = chance.multinomial(seeds, [1 / seeds] * seeds, RESAMPLES) / seeds
            of_items = chance.multinomial(items, [1 / items] * items, RESAMPLES) / items
            self._drawn[arm, recipe] = np.einsum("bs,si,bi->b", of_seeds, right, of_items, optimize=True)
        return self._drawn[arm, recipe]


def _bounds(middle: float, drawn: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(middle, float(low), float(high))


def speed(figures: Figures, recipe: str, shares: Sequence[float], best: float, arm: str) -> dict[str, Any]:
    """Accuracy against the share of the updates, and the smallest share whose mean is at least ``best``."""
    arms = {share: f"updates x {share:g}" for share in shares} | {1.0: arm}
    found = {s: figures.values(a, recipe, "accuracy") for s, a in arms.items() if figures.of(a, recipe)}
    curve = {s: mean(values) for s, values in found.items()}
    reached = [s for s, value in sorted(curve.items()) if value >= best]
    num = max(map(len, found.values()), default=0)
    each = [next((s for s in sorted(found) if len(found[s]) > i and found[s][i] >= best), None) for i in range(num)]
    return {"curve": curve, "reached": reached[0] if reached else None, "by seed": each}
