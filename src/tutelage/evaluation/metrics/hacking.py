"""Teacher hacking: a student that nears its teacher while it leaves what the teacher was taught by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...core.errors import SettingError
from ...core.schedule import Memory, Progress


def hacking_index(golden: Sequence[float], proxy: Sequence[float]) -> float:
    """``golden_last / min golden``, 1 unless the proxy fell from that minimum to the end.

    Where both rise it is plain overfitting, and the index stays at 1; above 1.2 is hacking.

    Args:
        golden: Distance to the truth along training, > 0.
        proxy: Distance to the teacher at the same steps.
    """
    if not golden or len(golden) != len(proxy):
        raise SettingError(
            "hacking_index",
            got=f"{len(golden)} golden and {len(proxy)} proxy figures",
            expected="one of each at every step",
            remedy="Measure both at the same steps.",
        )
    best = min(range(len(golden)), key=lambda k: (golden[k], -k))
    return golden[-1] / golden[best] if proxy[-1] < proxy[best] else 1.0


class PowerLaw(NamedTuple):
    """``value = exp(level) step^-slope`` in the early phase, and the first step that leaves it, if one does."""

    level: float
    slope: float
    left_at: float | None


def power_law(
    steps: Sequence[float], values: Sequence[float], *, early: float = 0.3, sigmas: float = 3.0, run: int = 3
) -> PowerLaw:
    """Fit a power law to the early part of a curve and find where the rest leaves its band.

    ``log value = level - slope log step`` by least squares over the first ``early`` of the range of log-steps. A later
    point is out where its residual passes ``sigmas`` standard errors of prediction, of which the fit's own uncertainty
    is a part; the curve has left at the first of ``run`` points in a row that are out on one side.

    Args:
        steps: > 0, rising; spaced evenly in the logarithm they serve best.
        values: > 0.
        early: In (0, 1); at least 4 points must lie there.
        sigmas: Width of the band.
        run: Points in a row.

    Source: arXiv:2502.02671; the exact fit is reconstructed.
    """
    if len(steps) != len(values) or not 0 < early < 1 or min([*steps, *values], default=0.0) <= 0 or run < 1:
        raise SettingError(
            "power_law",
            got=f"{len(steps)} steps, {len(values)} values, early={early}, run={run}",
            expected="as many steps as values, all above 0, early in (0, 1) and run >= 1",
            remedy="Leave out the first step if it is 0.",
        )
    x, y = [math.log(s) for s in steps], [math.log(v) for v in values]
    num = sum(at <= x[0] + early * (x[-1] - x[0]) for at in x)
    if num < 4:
        raise SettingError(
            "power_law",
            got=f"{num} points in the early phase",
            expected="4 or more",
            remedy="Measure more often early on, or raise early.",
        )
    mean_x, mean_y = sum(x[:num]) / num, sum(y[:num]) / num
    spread = sum((a - mean_x) ** 2 for a in x[:num])
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x[:num], y[:num])) / spread
    residuals = [b - mean_y - slope * (a - mean_x) for a, b in zip(x, y, strict=True)]
    noise = math.sqrt(sum(r**2 for r in residuals[:num]) / (num - 2))
    sides = [0] * num
    for at, rest in zip(x[num:], residuals[num:], strict=True):
        error = max(noise, 1e-3) * math.sqrt(1 + 1 / num + (at - mean_x) ** 2 / spread)
        sides.append((rest > sigmas * error) - (rest < -sigmas * error))
    starts = range(num, len(sides) - run + 1)
    left = next((k for k in starts if sides[k] and sides[k : k + run] == [sides[k]] * run), None)
    return PowerLaw(mean_y - slope * mean_x, -slope, None if left is None else float(steps[left]))


@dataclass(eq=False)
class Hacking(Memory):
    """Remembers golden and proxy distances as they are measured, and says once that the teacher is being hacked.

    Args:
        golden: The name of the mean that measures the distance to the truth.
        proxy: The name of that to the teacher.
        above: The index above which it speaks, >= 1.
    """

    golden: str
    proxy: str
    above: float = 1.2

    def __post_init__(self) -> None:
        if self.above < 1:
            raise SettingError("Hacking.above", got=str(self.above), expected="1 or more", remedy="1.2 is usual.")
        self.reset()

    @property
    def follows(self) -> tuple[str, str]:
        """The means it listens to."""
        return self.golden, self.proxy

    def reset(self) -> None:
        """Nothing measured, nothing said."""
        self.curves: dict[str, dict[int, float]] = {self.golden: {}, self.proxy: {}}
        self._said = False

    def observe(self, progress: Progress, tracked: Mapping[str, float]) -> None:
        """Take the means over that are told."""
        for name in self.follows:
            if math.isfinite(tracked.get(name, math.nan)):
                self.curves[name][progress.step] = tracked[name]

    @property
    def points(self) -> list[tuple[int, float, float]]:
        """Step, golden and proxy wherever both are known, in order."""
        golden, proxy = (self.curves[name] for name in self.follows)
        return [(step, golden[step], proxy[step]) for step in sorted(golden.keys() & proxy.keys())]

    @property
    def index(self) -> float:
        """The hacking index so far; 1 before anything is measured."""
        points = self.points
        return hacking_index([g for _, g, _ in points], [p for _, _, p in points]) if points else 1.0

    def __call__(self, progress: Progress, records: object, tracked: Mapping[str, float]) -> tuple[str, ...]:
        """What is to be said after this step."""
        if self._said or self.index <= self.above:
            return ()
        self._said = True
        return (
            f"Step {progress.step + 1} of stage {progress.stage!r}: the distance to the truth is {self.index:.2f} "
            "times its least while that to the teacher falls: teacher hacking. Train on more prompts, or on new text.",
        )

    def figures(self) -> Mapping[str, float]:
        """The index and the last point."""
        last = self.points[-1:]
        return {"hacking": self.index, **{k: v for _, g, p in last for k, v in (("golden", g), ("proxy", p))}}

    def state_dict(self) -> dict[str, Any]:
        """The curves, and whether it spoke."""
        return {"curves": {n: [list(p) for p in sorted(c.items())] for n, c in self.curves.items()}, "said": self._said}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.curves = {name: {int(s): float(v) for s, v in points} for name, points in state["curves"].items()}
        self._said = bool(state["said"])
