"""When an answer has settled: a note of its tokens stays low for good, by a bound that earlier answers set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import Any

from ..core.doubts import Here
from ..core.errors import SettingError
from ..core.schedule import Memory, Progress


@dataclass(eq=False)
class Lows(Memory):
    """A bound under which a share of the last values lies: a quantile of a queue that follows training.

    Values that are told during a step enter when it is done. The bound is minus infinity until enough is known.

    Args:
        share: Of the values that lie below the bound, in [0, 1); 0 bounds nothing. The quantile is linear between
            neighbours.
        size: Values in the queue, first in first out.
        least: Values that must be there.
        steps: Optimiser steps that must be done.
    """

    share: float = 0.3
    size: int = 4096
    least: int = 512
    steps: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or not 1 <= self.least <= self.size or self.steps < 0:
            raise SettingError(
                "Lows",
                got=f"share={self.share}, size={self.size}, least={self.least}, steps={self.steps}",
                expected="a share in [0, 1), 1 <= least <= size and steps >= 0",
                remedy="0.3 of 4096 values, after 512 of them and 50 steps, is usual.",
            )
        self.reset()

    def reset(self) -> None:
        """Nothing seen."""
        self.values: list[float] = []
        self._new: list[float] = []
        self._done = 0

    def tell(self, value: float) -> None:
        """A value of this step."""
        self._new.append(value)

    @property
    def bound(self) -> float:
        """The bound now."""
        if not self.share or len(self.values) < self.least or self._done < self.steps:
            return -math.inf
        ordered, place = sorted(self.values), self.share * (len(self.values) - 1)
        low, high = ordered[int(place)], ordered[min(int(place) + 1, len(ordered) - 1)]
        return low + (high - low) * (place - int(place))

    def observe(self, progress: Progress, tracked: Mapping[str, float]) -> None:
        """A step is done."""
        self.values, self._new = [*self.values, *self._new][-self.size :], []
        self._done += 1

    def figures(self) -> Mapping[str, float]:
        """How many values are there, and the bound once it bounds something."""
        bound = self.bound
        return {"lows.seen": float(len(self.values)), **({"lows.bound": bound} if math.isfinite(bound) else {})}

    def state_dict(self) -> dict[str, Any]:
        """The queue, what is not in it yet, and the steps."""
        return {"values": list(self.values), "new": list(self._new), "done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.values, self._new, self._done = list(state["values"]), list(state["new"]), int(state["done"])

    def joined(self, states: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """The queues of all processes as one, oldest of each first."""
        rows = zip_longest(*(state["values"] for state in states))
        values = [value for row in rows for value in row if value is not None]
        new = [value for state in states for value in state["new"]]
        return {"values": values[-self.size :], "new": new, "done": states[0]["done"]}


@dataclass(frozen=True, eq=False)
class Settled:
    """Where an answer settled: the start of ``runs`` windows in a row whose mean is below the bound, or None.

    Window t is the values ``t - window + 1 .. t``. Windows end at ``window - 1`` and then every ``stride`` values; one
    that is not below starts the count anew, and none counts before position ``exempt``. The answer settled at the first
    value of the first window that counts, but not before ``exempt``. The rule looks back only, so a token written later
    never changes what it said; it is the same for an answer read at once and for one read as it is written.

    Args:
        lows: Sets the bound, and is told the least mean of each finished answer; an answer shorter than a window
            tells nothing.
        window: Values in a window, >= 1.
        runs: Windows in a row, >= 1.
        exempt: Values at the start where low means nothing, >= 0.
        stride: Values from one window to the next, >= 1; ``window`` makes them disjoint.
    """

    lows: Lows
    window: int = 64
    runs: int = 4
    exempt: int = 256
    stride: int = 1

    def __post_init__(self) -> None:
        if min(self.window, self.runs, self.stride) < 1 or self.exempt < 0:
            raise SettingError(
                "Settled",
                got=f"window={self.window}, runs={self.runs}, exempt={self.exempt}, stride={self.stride}",
                expected="window, runs and stride >= 1, exempt >= 0",
                remedy="64, 4, 256 and 1 are usual.",
            )

    def doubt(self, here: Here) -> str:
        """Answers too short, or stages too short, for anything to be cut."""
        if not self.lows.share:
            return ""
        need = max(self.window, self.exempt + 1) + (self.runs - 1) * self.stride
        if here.max_tokens is not None and need > here.max_tokens:
            return (
                f"nothing is cut: {self.runs} windows of {self.window} tokens after {self.exempt} exempt ones need "
                f"{need} tokens, and answers have {here.max_tokens} at most."
            )
        written = here.steps * here.batch_size * (here.group or 1)
        if self.lows.steps >= here.steps or self.lows.least >= written:
            return (
                f"nothing is cut: the bound waits for {self.lows.steps} steps and {self.lows.least} answers, and there "
                f"are {here.steps} steps with {written} answers."
            )
        return ""

    def __call__(self, values: Sequence[float]) -> int | None:
        """How many values to keep, or None where the answer has not settled."""
        return self.scan(values, self.lows.bound)[0]

    def learn(self, values: Sequence[float]) -> None:
        """An answer is finished: its least mean, up to where it was cut, is told."""
        least = self.scan(values, self.lows.bound)[1]
        if math.isfinite(least):
            self.lows.tell(least)

    def scan(self, values: Sequence[float], bound: float) -> tuple[int | None, float]:
        """Where it settled under a bound, and the least mean until then."""
        sums = [0.0, *accumulate(float(v) for v in values)]
        least, count, first = math.inf, 0, 0
        bound += 1e-6 * abs(bound) if math.isfinite(bound) else 0.0  # loops repeat exactly: equal up to rounding is low
        for end in range(self.window - 1, len(values), self.stride):
            mean = (sums[end + 1] - sums[end + 1 - self.window]) / self.window
            least = min(least, mean)
            if mean < bound and end >= self.exempt:
                first = first if count else end
                count += 1
                if count >= self.runs:
                    return max(first - self.window + 1, self.exempt), least
            else:
                count = 0
        return None, least
