"""Numbers that change over a run: fixed schedules, and the state of parts that must last."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from .errors import SettingError


@dataclass(frozen=True)
class Progress:
    """Where a stage stands: ``step`` optimiser steps of ``num_steps`` are done."""

    stage: str = ""
    step: int = 0
    num_steps: int = 1

    @property
    def share(self) -> float:
        """The part that is done, in [0, 1]."""
        return min(1.0, self.step / max(1, self.num_steps))


Schedule = Callable[[Progress], float]


@dataclass(frozen=True)
class Linear:
    """``start + (end - start) * s``, where s runs from 0 to 1 between two shares of the stage."""

    start: float
    end: float
    begin_share: float = 0.0
    end_share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin_share < self.end_share <= 1:
            raise SettingError(
                "Linear",
                got=f"begin_share={self.begin_share}, end_share={self.end_share}",
                expected="0 <= begin_share < end_share <= 1",
                remedy="Give the two as shares of the stage.",
            )

    def __call__(self, progress: Progress) -> float:
        width = self.end_share - self.begin_share
        s = min(1.0, max(0.0, (progress.share - self.begin_share) / width))
        return self.start + (self.end - self.start) * s

    def doubt(self, here: Any) -> str:
        """A stage of so few steps that the value never leaves its start."""
        last = self(Progress("", here.steps - 1, here.steps))
        if self.start == self.end or last != self.start:
            return ""
        return f"a schedule from {self.start:g} to {self.end:g} stays at {self.start:g} in {here.steps} steps."


@dataclass(frozen=True)
class Warmup:
    """A rise from 0 over ``warmup_share`` of the stage, then a fall to ``end`` by a line or half a cosine.

    The value multiplies a learning rate; the first step already moves: it counts as one step done.
    """

    warmup_share: float = 0.05
    end: float = 0.0
    cosine: bool = False

    def __call__(self, progress: Progress) -> float:
        done = (progress.step + 1) / max(1, progress.num_steps)
        if done < self.warmup_share:
            return done / self.warmup_share
        s = min(
            1.0,
            progress.share
            if self.warmup_share >= 1
            else max(0.0, (progress.share - self.warmup_share)) / (1 - self.warmup_share),
        )
        fall = 0.5 * (1 + math.cos(math.pi * s)) if self.cosine else 1 - s
        return self.end + (1 - self.end) * fall


def value_at(number: float | Schedule, progress: Progress) -> float:
    """A number, or a schedule's value."""
    return float(number(progress)) if callable(number) else float(number)


class Memory:
    """Hidden state of a part that must last: the checkpoint finds it by walking the recipe.

    Parts that hold one compare by identity, because two of them may remember different things.
    """

    def reset(self) -> None:
        """Forget everything: a stage starts."""

    def observe(self, progress: Progress, tracked: Mapping[str, float]) -> None:
        """See the globally reduced means of an optimiser step."""

    def figures(self) -> Mapping[str, float]:
        """Numbers for the log, by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What must last, JSON-ready or tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""

    def joined(self, states: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """One state of those that several processes held, for a run that goes on with another number of them."""
        return states[0]


@dataclass(frozen=True)
class Complement:
    """``1 - of``: what another schedule leaves of a whole."""

    of: Schedule

    def __call__(self, progress: Progress) -> float:
        return 1.0 - self.of(progress)


def walk(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every part inside a tree of dataclasses, mappings and sequences, with its path; parents first."""
    yield path, tree
    children: Iterable[tuple[str, Any]] = ()
    if is_dataclass(tree) and not isinstance(tree, type):
        children = ((f.name, getattr(tree, f.name)) for f in fields(tree))
    elif isinstance(tree, Mapping):
        children = ((str(k), v) for k, v in tree.items())
    elif isinstance(tree, (tuple, list)):
        children = ((str(i), v) for i, v in enumerate(tree))
    for name, child in children:
        if not isinstance(child, (str, int, float, bool, bytes, type(None))):
            yield from walk(child, f"{path}.{name}" if path else name)


def memories(tree: Any) -> dict[str, Any]:
    """The parts of a recipe tree with state that must last, by path; one that several parts share appears once."""
    found: dict[int, tuple[str, Any]] = {}
    for path, part in walk(tree):
        if not isinstance(part, type) and hasattr(part, "state_dict") and hasattr(part, "load_state_dict"):
            found.setdefault(id(part), (path, part))
    return dict(found.values())
