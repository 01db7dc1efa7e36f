"""Tests and correlations over experiments, exact to rounding: no table, no approximation of a tail."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch

from ..core.errors import SettingError
from ..core.seeds import generator

Numbers = Sequence[float]


class Tested(NamedTuple):
    """A statistic and its p-value; both nan where nothing varies."""

    statistic: float
    p: float


def paired_t(one: Numbers, other: Numbers) -> Tested:
    """Student's two-sided paired t-test that ``one - other`` is 0 on average; t of n - 1 degrees of freedom."""
    _need("paired_t", len(one) == len(other) and len(one) > 1, "as many numbers twice, 2 or more")
    gaps = [a - b for a, b in zip(one, other, strict=True)]
    num, mean = len(gaps), fmean(gaps)
    error = math.sqrt(sum((g - mean) ** 2 for g in gaps) / (num - 1) / num)
    if error == 0:
        return Tested(math.nan, math.nan)
    return Tested(mean / error, _t_tails(mean / error, num - 1))


def anova(*groups: Numbers) -> Tested:
    """One-way analysis of variance that all groups have one mean; F of (k - 1, n - k) degrees of freedom."""
    num = sum(map(len, groups))
    _need(
        "anova", len(groups) > 1 and all(groups) and num > len(groups), "2 groups or more, of more numbers than groups"
    )
    grand = sum(map(sum, groups)) / num
    between = sum(len(g) * (fmean(g) - grand) ** 2 for g in groups) / (len(groups) - 1)
    within = sum((x - fmean(g)) ** 2 for g in groups for x in g) / (num - len(groups))
    if within == 0:
        return Tested(math.nan, math.nan)
    ratio, top, bottom = between / within, len(groups) - 1, num - len(groups)
    return Tested(ratio, incomplete_beta(bottom / 2, top / 2, bottom / (bottom + top * ratio)))


def spearman(one: Numbers, other: Numbers) -> Tested:
    """Rank correlation, ties at their mean rank; p two-sided by t of n - 2 degrees of freedom."""
    _need("spearman", len(one) == len(other) and len(one) > 2, "as many numbers twice, 3 or more")
    x, y = ranks(one), ranks(other)
    mean = (len(x) + 1) / 2
    sides = [math.sqrt(sum((a - mean) ** 2 for a in r)) for r in (x, y)]
    if 0 in sides:
        return Tested(math.nan, math.nan)
    rho = sum((a - mean) * (b - mean) for a, b in zip(x, y, strict=True)) / (sides[0] * sides[1])
    if 1 - abs(rho) < 1e-12:
        return Tested(math.copysign(1.0, rho), 0.0)
    return Tested(rho, _t_tails(rho * math.sqrt((len(x) - 2) / ((1 - rho) * (1 + rho))), len(x) - 2))


def ranks(values: Numbers) -> list[float]:
    """Places from 1 in rising order; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    out, start = [0.0] * len(values), 0
    for end in range(1, len(order) + 1):
        if end == len(order) or values[order[end]] != values[order[start]]:
            for place in order[start:end]:
                out[place] = (start + 1 + end) / 2
            start = end
    return out


def bootstrap(
    statistic: Callable[[Numbers, Numbers], float],
    one: Numbers,
    other: Numbers,
    *,
    draws: int = 1000,
    mass: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile interval of a statistic of pairs, by drawing pairs with replacement; nan draws are left out."""
    _need("bootstrap", len(one) == len(other) and len(one) > 0 and draws > 0 and 0 < mass < 1, "pairs, draws, a mass")
    picks = torch.randint(len(one), (draws, len(one)), generator=generator(seed, "bootstrap")).tolist()
    found = sorted(
        v for pick in picks if not math.isnan(v := statistic([one[i] for i in pick], [other[i] for i in pick]))
    )
    if not found:
        return math.nan, math.nan
    tail = (1 - mass) / 2
    return found[math.floor(tail * (len(found) - 1))], found[math.ceil((1 - tail) * (len(found) - 1))]


def correlate(cells: Sequence[Mapping[str, Any]], *, seed: int = 0) -> dict[str, Any]:
    """What accuracy goes with over a grid of experiments.

    Args:
        cells: One a trained student: ``method``, ``task``, ``size``, ``accuracy``, ``baseline`` (the same student
            without distillation), ``teacher_accuracy``, ``agreement``, ``fidelity``.
        seed: Of the bootstrap.

    Returns:
        ``gain`` (paired t of accuracy against baseline), ``methods`` (anova of gains by method, absent for one method),
        and rank correlations with a bootstrap interval: ``size_gain``, ``teacher_gain``, ``agreement_accuracy``,
        ``fidelity_accuracy``. Numbers are ranked within their task first: tasks have scales of their own.
    """
    own, base = ([float(c[name]) for c in cells] for name in ("accuracy", "baseline"))
    gains = [a - b for a, b in zip(own, base, strict=True)]
    columns = {
        "gain": gains,
        **{n: [float(c[n]) for c in cells] for n in ("size", "accuracy", "agreement", "fidelity")},
    }
    columns["teacher"] = [float(c["teacher_accuracy"]) for c in cells]
    ranked = {name: _within([str(c["task"]) for c in cells], values) for name, values in columns.items()}
    out: dict[str, Any] = {"num": len(cells), "gain": paired_t(own, base)._asdict()}
    by: dict[str, list[float]] = {}
    for cell, gain in zip(cells, gains, strict=True):
        by.setdefault(str(cell["method"]), []).append(gain)
    if len(by) > 1:
        out["methods"] = anova(*by.values())._asdict()
    for name in ("size_gain", "teacher_gain", "agreement_accuracy", "fidelity_accuracy"):
        pair = [ranked[side] for side in name.split("_")]
        low, high = bootstrap(lambda a, b: spearman(a, b).statistic, *pair, seed=seed)
        out[name] = {**spearman(*pair)._asdict(), "low": low, "high": high}
    return out


def _within(tasks: Sequence[str], values: Numbers) -> list[float]:
    """Each value's rank in its task, as a share of the task's size."""
    out = [0.0] * len(values)
    for task in dict.fromkeys(tasks):
        places = [i for i, t in enumerate(tasks) if t == task]
        for place, rank in zip(places, ranks([values[i] for i in places]), strict=True):
            out[place] = rank / len(places)
    return out


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function ``I_x(a, b)``, by Lentz's continued fraction.

    Source: Abramowitz and Stegun, 26.5.8.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = fraction
        for step in (even, odd):
            d = 1 / ((1 + step * d) or tiny)
            c = (1 + step / c) or tiny
            fraction *= c * d
        if abs(fraction - before) <= 1e-15 * abs(fraction):
            break
    return front * fraction


def _t_tails(t: float, freedom: int) -> float:
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def _need(where: str, holds: bool, expected: str) -> None:
    if not holds:
        raise SettingError(where, got="other numbers", expected=expected, remedy="Check what is compared.")
