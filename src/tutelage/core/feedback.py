"""Memories that follow what was measured: adaptive schedules, shares and alarms.

They are told through ``observe``: by the loop with the means of every optimiser step, or by a source that measures
(``data.gauge``). Means that are missing or not finite leave them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import SettingError
from .schedule import Memory, Progress


@dataclass(eq=False)
class Climb(Memory):
    """A share that moves from ``start`` to ``end`` at least as fast as a line, and faster while a mean falls.

    After each step with mean L, relative fall ``r = (L_before - L) / L_before``:
    ``m = inertia m + (1 - inertia) r``, ``value += rate sigmoid(m) (end - value)``, and never behind the line from
    ``start`` to ``end`` over the stage. It never turns back and never passes ``end``.

    Args:
        follows: The tracked mean: a term's or a watched signal's name.
        start: The value at the first step.
        end: The value when the stage is done; below ``start`` it falls.
        rate: The largest part of the way that is left that a step adds, in [0, 1]; 0 gives the line itself.
        inertia: In [0, 1): the memory of the falls.

    Source: arXiv:2501.16937.
    """

    follows: str
    start: float = 0.0
    end: float = 1.0
    rate: float = 5e-4
    inertia: float = 0.99

    def __post_init__(self) -> None:
        if not (0 <= self.rate <= 1 and 0 <= self.inertia < 1 and math.isfinite(self.start + self.end)):
            raise SettingError(
                "Climb",
                got=f"start={self.start}, end={self.end}, rate={self.rate}, inertia={self.inertia}",
                expected="finite ends, rate in [0, 1] and inertia in [0, 1)",
                remedy="rate=5e-4 and inertia=0.99 are the paper's; short stages need a larger rate.",
            )
        self.reset()

    def reset(self) -> None:
        """At the start, nothing seen."""
        self._value, self._momentum, self._last = self.start, 0.0, None

    def __call__(self, progress: Progress) -> float:
        line = self.start + (self.end - self.start) * progress.share
        return max(line, self._value) if self.end >= self.start else min(line, self._value)

    def observe(self, progress: Progress, tracked: Mapping[str, float]) -> None:
        """Climb on by what the step's mean says; the first mean is only remembered."""
        seen = tracked.get(self.follows, math.nan)
        if not math.isfinite(seen):
            return
        if self._last is not None:
            fall = (self._last - seen) / (self._last + 1e-15)
            self._momentum = self.inertia * self._momentum + (1 - self.inertia) * fall
            now = self(progress)
            # tanh, because exp(-momentum) overflows where a loss of nearly 0 makes the relative fall huge
            self._value = now + self.rate * 0.5 * (1 + math.tanh(self._momentum / 2)) * (self.end - now)
        self._last = seen

    def figures(self) -> Mapping[str, float]:
        """The value so far, the line aside."""
        return {f"climb.{self.follows}": self._value}

    def state_dict(self) -> dict[str, Any]:
        """Value, momentum and the last mean."""
        return {"value": self._value, "momentum": self._momentum, "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._value, self._momentum, self._last = state["value"], state["momentum"], state["last"]


@dataclass(eq=False)
class Ratchet(Memory):
    """A share that rises by a notch each time a mean is above its mark by ``margin``; the mean is then the new mark.

    Args:
        follows: The mean that it is told.
        start: The value at the start, in [0, 1].
        notch: What one rise adds; the value stops at 1.
        margin: By how much the mean must exceed the mark, in the mean's own unit.

    Source: arXiv:2402.03898.
    """

    follows: str
    start: float = 0.0
    notch: float = 0.1
    margin: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1 or not 0 <= self.notch <= 1 or self.margin < 0:
            raise SettingError(
                "Ratchet",
                got=f"start={self.start}, notch={self.notch}, margin={self.margin}",
                expected="start and notch in [0, 1], margin >= 0",
                remedy="0, 0.1 and 0.1 are the paper's.",
            )
        self.reset()

    def reset(self) -> None:
        """At the start, without a mark."""
        self._value, self._mark = self.start, None

    def __call__(self, progress: Progress) -> float:
        return self._value

    def observe(self, progress: Progress, tracked: Mapping[str, float]) -> None:
        """Rise if the mean did."""
        seen = tracked.get(self.follows, math.nan)
        if not math.isfinite(seen):
            return
        if self._mark is None:
            self._mark = seen
        elif seen >= self._mark + self.margin:
            self._value, self._mark = min(1.0, self._value + self.notch), seen

    def figures(self) -> Mapping[str, float]:
        """The value."""
        return {f"ratchet.{self.follows}": self._value}

    def state_dict(self) -> dict[str, Any]:
        """Value and mark."""
        return {"value": self._value, "mark": self._mark}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._value, self._mark = state["value"], state["mark"]


@dataclass(eq=False)
class Last(Memory):
    """``factor`` times a mean as it was in the step before.

    Args:
        follows: The tracked mean: a term's or a watched signal's name.
        factor: Multiplies it.
        start: The value until a mean is seen.
    """

    follows: str
    factor: float = 1.0
    start: float = 0.0

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Nothing seen."""
        self._value = self.start

    def __call__(self, progress: Progress) -> float:
        return self._value

    def observe(self, progress: Progress, tracked: Mapping[str, float]) -> None:
        """Take the mean over."""
        seen = tracked.get(self.follows, math.nan)
        self._value = self.factor * seen if math.isfinite(seen) else self._value

    def state_dict(self) -> dict[str, Any]:
        """The value."""
        return {"value": self._value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._value = state["value"]


@dataclass(eq=False)
class Alarm(Memory):
    """Says once that a mean has passed a bound; the stage goes on.

    Args:
        follows: The tracked mean: a term's or a watched signal's name.
        above: The bound, in the mean's unit.
        because: What passing it means, and what to do.
    """

    follows: str
    above: float
    because: str

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Nothing said."""
        self._said = False

    def __call__(self, progress: Progress, records: object, tracked: Mapping[str, float]) -> tuple[str, ...]:
        """What is to be said after this step."""
        seen = tracked.get(self.follows, math.nan)
        if self._said or not seen > self.above:
            return ()
        self._said = True
        return (
            f"Step {progress.step + 1} of stage {progress.stage!r}: {self.follows} is {seen:.3g}, "
            f"above {self.above:g}. {self.because}",
        )

    def state_dict(self) -> dict[str, Any]:
        """Whether it was said."""
        return {"said": self._said}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._said = bool(state["said"])


@dataclass(eq=False)
class Chase(Memory):
    """Shares of several things that follow a score of each: what scores high gets more.

    The first scores give ``softmax(score)``; after that
    ``share = keep * psi / sum psi + (1 - keep) / N`` with ``psi = share exp(score)``, so that no share falls below
    ``(1 - keep) / N`` and none jumps.

    Args:
        follows: The names of the scores, one a share, in order.
        keep: In [0, 1]; 0 gives equal shares, 1 has no floor.
        smooth: Without it the shares are ``softmax(score)`` each time.
        most: Scores above it count as it: exponentials of a hopeless score would leave nothing for the others.

    Source: arXiv:2407.16154.
    """

    follows: tuple[str, ...]
    keep: float = 0.5
    smooth: bool = True
    most: float = 20.0

    def __post_init__(self) -> None:
        if not self.follows or len(set(self.follows)) < len(self.follows) or not 0 <= self.keep <= 1:
            raise SettingError(
                "Chase",
                got=f"follows={self.follows}, keep={self.keep}",
                expected="different names, and keep in [0, 1]",
                remedy="Name the score of each share; keep=0.5 is the paper's.",
            )
        self.reset()

    def reset(self) -> None:
        """Equal shares, nothing seen."""
        self._shares: list[float] = []

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares now; equal ones until scores are seen."""
        return tuple(self._shares) or (1 / len(self.follows),) * len(self.follows)

    def observe(self, progress: Progress, tracked: Mapping[str, float]) -> None:
        """Follow the scores, if all of them are told and none is nan."""
        scores = [min(tracked.get(name, math.nan), self.most) for name in self.follows]
        if any(math.isnan(x) for x in scores):
            return
        first = not self._shares or not self.smooth
        logs = [x + (0.0 if first else math.log(max(r, 1e-300))) for x, r in zip(scores, self.shares, strict=True)]
        powers = [math.exp(x - max(logs)) for x in logs]
        psi = [x / sum(powers) for x in powers]
        keep = 1.0 if first else self.keep
        self._shares = [keep * x + (1 - keep) / len(psi) for x in psi]

    def figures(self) -> Mapping[str, float]:
        """The shares by name."""
        return {f"chase.{name}": share for name, share in zip(self.follows, self.shares, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """The shares."""
        return {"shares": list(self._shares)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._shares = list(state["shares"])
