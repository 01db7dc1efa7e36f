"""Compare: is one recipe better than another on the same held-out records, or can it not be told?

Records are paired: both recipes answered the same ones, so what makes a record hard for both cancels. Seeds are not:
each recipe has its own. The statistic is the difference of the per-position means that the report shows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import SettingError, StoreError
from ..core.seeds import generator
from .run_folder import RunFolder, read_run
from .view import main_of, systems_of

# Whether more or less is better.
BETTER = {"kl": -1, "reverse_kl": -1, "top1": 1, "top5": 1, "student_nll": -1, "student_brier": -1}

# 97.5 % points of Student's t for 1 .. 30 degrees of freedom; beyond that the normal's 1.96 is 2 % short at most.
T_POINTS = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
NORMAL_POINT = 1.95996


@dataclass(frozen=True)
class Difference:
    """One metric of one group against the baseline.

    Args:
        metric: Its name in ``records``.
        baseline: The group compared with.
        group: The group judged.
        baseline_mean: Its mean a position, over its seeds.
        group_mean: The same of the judged group.
        low: Lower end of the 95 % interval of ``group_mean - baseline_mean``.
        high: Upper end.
        verdict: ``better``, ``worse`` or ``cannot tell``: of the group, if the interval excludes 0.
        num_records: Records both were measured on.
        num_seeds: Runs of baseline and group.
    """

    metric: str
    baseline: str
    group: str
    baseline_mean: float
    group_mean: float
    low: float
    high: float
    verdict: str
    num_records: int
    num_seeds: tuple[int, int]

    @property
    def difference(self) -> float:
        """``group_mean - baseline_mean``."""
        return self.group_mean - self.baseline_mean

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {**asdict(self), "difference": self.difference, "num_seeds": list(self.num_seeds)}


def by_recipe(run: RunFolder) -> str:
    """The recipe's hash, which runs that differ only by their seed share; without one, the name without its seed."""
    return str(run.info.get("recipe_hash") or by_name(run))


def by_name(run: RunFolder) -> str:
    """The run's name without the seed at its end: ``half-seed3``, ``half_s3`` and ``half-3`` are ``half``."""
    return re.sub(r"[-_. ](?:seed|s)?[-_=]?\d+$", "", run.name) or run.name


def group(paths: Sequence[Path], key: Callable[[RunFolder], str] = by_recipe) -> dict[str, list[RunFolder]]:
    """Runs by recipe, in the order given; each group is called by its first run's name without the seed."""
    found: dict[str, list[RunFolder]] = {}
    for path in paths:
        run = read_run(Path(path))
        found.setdefault(key(run), []).append(run)
    named: dict[str, list[RunFolder]] = {}
    for tag, runs in found.items():
        name = by_name(runs[0])
        named[name if name not in named else f"{name} ({tag[:8]})"] = runs
    return named


def compare(
    paths: Sequence[Path],
    *,
    key: Callable[[RunFolder], str] = by_recipe,
    metrics: Sequence[str] = ("kl", "top1", "student_nll"),
    num_resamples: int = 4000,
    seed: int = 0,
) -> list[Difference]:
    """Every group of runs against the first one.

    ``d = mean_B - mean_A`` over positions; its 95 % interval is a bootstrap over held-out records (the same draw for
    both, each record with its number of positions) and over the seeds of each group.

    Args:
        paths: Run folders; runs of one recipe are seeds of one group. The first run's group is the baseline.
        key: What makes two runs seeds of one group.
        metrics: Columns of ``records``: ``kl``, ``reverse_kl``, ``top1``, ``top5``, ``student_nll``, ``student_brier``.
        num_resamples: Draws of the bootstrap, >= 100; 4,000 put the ends within a few percent of their width.
        seed: Of the draws.

    Raises:
        SettingError: Fewer than two groups, an unknown metric, or too few draws.
        StoreError: A run is not evaluated, or the held-out records differ.
    """
    groups = group(paths, key)
    wrong = [m for m in metrics if m not in BETTER]
    if len(groups) < 2 or wrong or num_resamples < 100:
        raise SettingError(
            "compare",
            got=f"the metric {wrong[0]!r}" if wrong else f"{len(groups)} recipe(s), num_resamples={num_resamples}",
            expected=f"metrics of {', '.join(BETTER)}" if wrong else "runs of two recipes at least, and 100 draws",
            remedy="Name other columns."
            if wrong
            else "Runs that differ only by seed are one group; use key=by_name to part them.",
        )
    _check_same([run for runs in groups.values() for run in runs])
    (base_name, base), *others = groups.items()
    found = []
    for name, runs in others:
        for metric in metrics:
            a, b = (_matrix(side, metric) for side in (base, runs))
            weight, kept = _weights(base, runs, a, b)
            mean_a, mean_b = (float((side[:, kept] @ weight).mean() / weight.sum()) for side in (a, b))
            low, high = interval(a[:, kept], b[:, kept], weight, num_resamples, seed)
            better = BETTER[metric]
            verdict = "cannot tell" if low <= 0 <= high else "better" if (low > 0) == (better > 0) else "worse"
            counts = (len(base), len(runs))
            found.append(
                Difference(metric, base_name, name, mean_a, mean_b, low, high, verdict, int(kept.sum()), counts)
            )
    return found


def interval(a: Tensor, b: Tensor, weight: Tensor, num_resamples: int = 4000, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of ``mean(b) - mean(a)``.

    Args:
        a: Float64[S R], a record's mean in each run of the baseline.
        b: Float64[S' R], the same of the other group, over the same records.
        weight: Float64[R], each record's number of positions.
        num_resamples: Draws.
        seed: Of the draws.

    Deviations from the estimate are widened by ``sqrt(n / (n - 1))`` and by t over the normal point, for records and
    for seeds each: a plain bootstrap of few things is too narrow. A group of one seed says nothing of how seeds vary,
    so its interval is of the records alone.
    """
    gen = generator(seed, "compare")
    share = weight / weight.sum()
    gap = b.mean(0) - a.mean(0)
    estimate = float(gap @ share)
    num_records = len(share)
    # records: the weighted mean of a draw, with the draw's own number of positions below
    counts = torch.zeros(num_resamples, num_records, dtype=torch.float64)
    picks = torch.randint(num_records, (num_resamples, num_records), generator=gen)
    counts.scatter_add_(1, picks, torch.ones_like(picks, dtype=torch.float64))
    drawn = (counts @ (share * gap)) / (counts @ share).clamp_min(1e-300)
    moved = (drawn - estimate) * _widen(num_records, num_records - 1)
    freedom = (len(a) - 1 if len(a) > 1 else 0) + (len(b) - 1 if len(b) > 1 else 0)
    for runs, sign in ((a, -1.0), (b, 1.0)):
        if len(runs) > 1:
            off = runs @ share - (runs @ share).mean()
            picks = torch.randint(len(runs), (num_resamples, len(runs)), generator=gen)
            moved += sign * off[picks].mean(1) * _widen(len(runs), freedom)
    low, high = torch.quantile(moved, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    # the deviations are mirrored: a draw too high speaks for a truth that lies lower
    return estimate - high, estimate - low


def _widen(num: int, freedom: int) -> float:
    if num < 2:
        return 1.0
    point = T_POINTS[freedom - 1] if freedom <= len(T_POINTS) else NORMAL_POINT
    return math.sqrt(num / (num - 1)) * point / NORMAL_POINT


def _check_same(runs: Sequence[RunFolder]) -> None:
    for run in runs:
        if not _records(run).get("ids"):
            raise StoreError(
                f"run {run.name!r}", got="no evaluated student", expected="evaluation.json with a figure a record",
                remedy="Evaluate the run first.",
            )  # fmt: skip
    for one, other in pairwise(runs):
        held = [(r.evaluation.get("held_out") or {}).get("hash") for r in (one, other)]
        if held[0] != held[1] or _records(one)["ids"] != _records(other)["ids"]:
            raise StoreError(
                f"runs {one.name!r} and {other.name!r}",
                got=f"held-out records {str(held[0])[:12]} and {str(held[1])[:12]}",
                expected="the same held-out records",
                remedy="Evaluate both on one held-out set; figures of different texts do not compare.",
            )


def _records(run: RunFolder) -> Mapping[str, Any]:
    name = main_of(systems_of(run.evaluation))
    return (run.evaluation.get(name) or {}).get("records") or {}


def _matrix(runs: Sequence[RunFolder], metric: str) -> Tensor:
    for run in runs:
        if metric not in _records(run):
            raise StoreError(f"run {run.name!r}", got=f"no column {metric!r}", expected="it in its records",
                             remedy="Evaluate it again with this version, or compare other metrics.")  # fmt: skip
    rows = [[math.nan if v is None else float(v) for v in _records(run)[metric]] for run in runs]
    return torch.tensor(rows, dtype=torch.float64)


def _weights(base: Sequence[RunFolder], runs: Sequence[RunFolder], a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of each record that every run has a number for, and which records these are."""
    count = torch.tensor(_records(base[0])["count"], dtype=torch.float64)
    kept = a.isfinite().all(0) & b.isfinite().all(0) & (count > 0)
    if not kept.any():
        raise StoreError(f"runs {base[0].name!r} and {runs[0].name!r}", got="no record with a finite figure in each",
                         expected="at least one", remedy="Look for nulls in evaluation.json.")  # fmt: skip
    return count[kept], kept
