"""The result of the bench: a table by arm and recipe, duels, claims and curves, from whatever was measured so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tutelage.core import catalog

from ..common import Result
from . import table
from .claims import judged
from .job import COMPUTE, REFERENCES, UPDATES, Job
from .plan import Chain
from .sizes import Sizes
from .statistics import Figures, Interval, speed

COSTS = ("steps", "tokens written", "seconds", "processor seconds")
FIFTH = 0.2  # the share of the updates that on-policy recipes are held to


def summary(chains: Sequence[Chain], sizes: Sizes, seeds: int) -> Result:
    """Everything that was measured; recipes whose seeds are not all there are named."""
    jobs = list(dict.fromkeys(job for chain in chains for job in chain))
    figures = Figures([found for job in jobs if (found := job.kept(sizes)) is not None])
    shown = (
        "accuracy",
        "pass@1",
        f"pass@{sizes.samples}",
        "forward KL",
        "reverse KL",
        "own reverse KL",
        "ECE",
        "length",
    )
    rows = [_row(figures, arm, name, shown) for arm in (UPDATES, COMPUTE) for name in _ordered(figures, arm)]
    _, refused = table.applicable()
    facts = {
        "seeds": seeds,
        "sizes": {k: v for k, v in asdict(sizes).items() if k not in ("teacher", "student")},
        "models": {"teacher": asdict(sizes.teacher), "student": asdict(sizes.student)},
        "references": {who: {f: asdict(_finite(figures.interval(UPDATES, who, f))) for f in shown}
                       for who in REFERENCES if figures.of(UPDATES, who)},
        "duels": {arm: duels(figures, arm) for arm in (UPDATES, COMPUTE)},
        "claims": [c for arm in (UPDATES, COMPUTE) for c in judged(figures, arm=arm)],
        "speed": _speed(figures, sizes),
        "refused": refused,
        "missing": missing(jobs, sizes),
    }  # fmt: skip
    return Result(
        "methods",
        "Means over seeds; accuracy with its 95 % interval over seeds and test problems. All figures are of the "
        "student on problems that nobody trained on.",
        facts,
        ("arm", "recipe", "accuracy low", "accuracy high", *shown, *COSTS, "GFLOPs", "teacher positions"),
        tuple(rows),
    )


def _ordered(figures: Figures, arm: str) -> list[str]:
    """Recipes from the most accurate."""
    names = [n for n in figures.recipes(arm) if n not in REFERENCES]
    return sorted(names, key=lambda n: -figures.interval(arm, n).mean)


def _row(figures: Figures, arm: str, name: str, shown: Sequence[str]) -> tuple[Any, ...]:
    def middle(figure: str) -> float:
        values = figures.values(arm, name, figure)
        return sum(values) / len(values)

    accuracy = figures.interval(arm, name)
    flops = (middle("train FLOPs") + middle("other FLOPs")) / 1e9
    means = [round(middle(f), 4) for f in shown]
    costs = [round(middle(f)) for f in COSTS]
    return (arm, name, round(accuracy.low, 4), round(accuracy.high, 4), *means, *costs, round(flops),
            round(middle("teacher positions")))  # fmt: skip


def duels(figures: Figures, arm: str) -> dict[str, Any]:
    """Who beats whom: each recipe against the baselines, with intervals, and counts against all."""
    names = _ordered(figures, arm)
    won = {a: {b: figures.beats(arm, a, b) for b in names if b != a} for a in names}
    gaps = {a: {b: asdict(figures.gap(arm, a, b)) for b in table.BASELINES if b in names and b != a} for a in names}
    return {
        "recipes": names,
        "beats": {a: sorted(b for b, s in row.items() if s > 0) for a, row in won.items()},
        "loses to": {a: sorted(b for b, s in row.items() if s < 0) for a, row in won.items()},
        "against baselines": gaps,
    }


def _speed(figures: Figures, sizes: Sizes) -> dict[str, Any]:
    """Accuracy against updates, and whether on-policy reaches the best off-policy accuracy in a fifth of them."""
    off = [n for n in _ordered(figures, UPDATES) if "student" not in _writer(n)]
    if not off:
        return {}
    best = figures.interval(UPDATES, off[0]).mean
    names = [n for n in table.LADDER if figures.of(UPDATES, n)]
    curves = {n: speed(figures, n, sizes.ladder, best, UPDATES) for n in names}
    return {"best": off[0], "accuracy": best, "wanted": FIFTH, "curves": curves,
            "on-policy": [n for n in names if "student" in _writer(n)]}  # fmt: skip


def _writer(name: str) -> str:
    return catalog.card(catalog.find(name)).axes.get("writer", "")


def missing(jobs: Sequence[Job], sizes: Sizes) -> dict[str, list[str]]:
    """Arms that were not measured yet, by recipe."""
    out: dict[str, list[str]] = {}
    for job in jobs:
        if job.kept(sizes) is None:
            out.setdefault(job.recipe, []).append(f"{job.arm}, seed {job.seed}")
    return out


def _finite(interval: Interval) -> Interval:
    """One seed has no bounds, and JSON no infinity."""
    if abs(interval.low) == float("inf"):
        return Interval(interval.mean, interval.mean, interval.mean)
    return interval
