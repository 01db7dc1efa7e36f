"""Collapse detectors: they watch the answers written during training and say when they degenerate.

A student that learns from its own answers can fall into one phrase, lose its entropy, or write without end, while the
loss looks healthy. Each round of answers gives five figures; each is compared with the first rounds of the stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ...core.errors import SettingError
from ...core.schedule import Memory
from .text import distinct, self_bleu

FIGURES = ("distinct_2", "self_bleu", "entropy_nats", "length", "cut_share")


@dataclass(frozen=True)
class Limits:
    """How far a figure may move before it is named.

    Args:
        distinct_drop_share: Largest fall of distinct-2, as a share of the first rounds' value.
        self_bleu_rise: Largest rise of self-BLEU, in its own units (0 to 1).
        entropy_drop_share: Largest fall of the mean entropy, as a share.
        length_drift_share: Largest change of the mean length, either way, as a share.
        cut_share: Largest share of answers that stop only at the length limit.

    The values are loose on purpose: a healthy run under a sharper teacher loses some entropy and diversity.
    """

    distinct_drop_share: float = 0.3
    self_bleu_rise: float = 0.2
    entropy_drop_share: float = 0.6
    length_drift_share: float = 0.5
    cut_share: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise SettingError(f"Limits.{name}", got=str(value), expected="a number > 0",
                                   remedy="Give a large number to switch a detector off.")  # fmt: skip


def figures(
    answers: Sequence[Sequence[int]], *, cut: Sequence[bool], entropy_nats: float | None = None
) -> dict[str, float]:
    """A round's figures by name; what cannot be computed is nan.

    Args:
        answers: Token ids of each answer.
        cut: Whether each stopped only at the length limit.
        entropy_nats: The student's mean entropy on these answers, if it is known.
    """
    return {
        "distinct_2": distinct(answers, 2),
        "self_bleu": self_bleu(answers),
        "entropy_nats": math.nan if entropy_nats is None else entropy_nats,
        "length": fmean(map(len, answers)) if answers else math.nan,
        "cut_share": fmean(map(float, cut)) if cut else math.nan,
    }


class CollapseWatch(Memory):
    """Compares the last ``window`` rounds with the first ``window`` rounds and warns once for each figure that leaves.

    Args:
        limits: How far a figure may move.
        window: Rounds that are averaged, >= 1; fewer warn sooner and more often in vain.

    A figure that comes back within its limit may warn again later.
    """

    def __init__(self, limits: Limits | None = None, window: int = 3) -> None:
        if window < 1:
            raise SettingError("CollapseWatch.window", got=str(window), expected="a whole number >= 1",
                               remedy="Use 3, or more for small rounds.")  # fmt: skip
        self.limits, self.window = limits or Limits(), window
        self.reset()

    def reset(self) -> None:
        """Forget all rounds."""
        self.first: list[dict[str, float]] = []
        self.last: list[dict[str, float]] = []
        self.num_rounds = 0
        self.said: set[str] = set()

    def see(self, round_figures: Mapping[str, float]) -> list[str]:
        """Count a round in; the warnings that are new, each naming figure, values and limit."""
        values = {name: float(round_figures.get(name, math.nan)) for name in FIGURES}
        self.num_rounds += 1
        if len(self.first) < self.window:
            self.first.append(values)
        self.last = [*self.last, values][-self.window :]
        crossed = {name: text for name in FIGURES if (text := self._warning(name))}
        new = [text for name, text in crossed.items() if name not in self.said]
        self.said = set(crossed)
        return new

    def _warning(self, name: str) -> str:
        now = _mean(self.last, name)
        if name == "cut_share":
            full = len(self.last) == self.window
            return (
                self._say(name, f"is {now:.2f}", self.limits.cut_share) if full and now > self.limits.cut_share else ""
            )
        before = _mean(self.first, name)
        if self.num_rounds < 2 * self.window or math.isnan(now) or math.isnan(before):
            return ""
        went = f"went from {before:.3g} to {now:.3g}"
        if name == "self_bleu":
            rise = now - before
            return (
                self._say(name, f"{went} (+{rise:.2f})", self.limits.self_bleu_rise)
                if rise > self.limits.self_bleu_rise
                else ""
            )
        change = (now - before) / before if before else 0.0
        limit = {
            "distinct_2": self.limits.distinct_drop_share,
            "entropy_nats": self.limits.entropy_drop_share,
            "length": self.limits.length_drift_share,
        }[name]
        moved = abs(change) if name == "length" else -change
        return self._say(name, f"{went} ({change:+.0%})", limit) if moved > limit else ""

    def _say(self, name: str, what: str, limit: float) -> str:
        meaning, unit = _MEANING[name]
        shown = f"{limit:.2f}" if unit == "" else f"{limit:.0%}"
        return f"{meaning}: {name} {what}; the limit is {shown}{unit}, over the last {self.window} rounds."

    def state_dict(self) -> dict[str, Any]:
        """All it remembers, JSON-ready (nan as null)."""

        def plain(rows: list[dict[str, float]]) -> list[dict[str, float | None]]:
            return [{k: None if math.isnan(v) else v for k, v in row.items()} for row in rows]

        return {"first": plain(self.first), "last": plain(self.last), "num_rounds": self.num_rounds,
                "said": sorted(self.said)}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""

        def full(rows: list[dict[str, float | None]]) -> list[dict[str, float]]:
            return [{k: math.nan if v is None else float(v) for k, v in row.items()} for row in rows]

        self.first, self.last = full(state["first"]), full(state["last"])
        self.num_rounds, self.said = int(state["num_rounds"]), set(state["said"])


_MEANING = {
    "distinct_2": ("Answers lose variety", " fall"),
    "self_bleu": ("Answers grow alike", ""),
    "entropy_nats": ("The student grows too sure", " fall"),
    "length": ("Answer length drifts", " change"),
    "cut_share": ("Answers do not end by themselves", ""),
}


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    known = [row[name] for row in rows if not math.isnan(row[name])]
    return fmean(known) if known else math.nan
