"""Gauges: what is measured on data sets of their own while a stage trains, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.doubts import Here
from ..core.errors import DataError, SettingError
from ..core.record import Record
from ..core.schedule import Memory, Progress, walk
from ..core.signal import Signal
from ..core.workspace import Workspace
from .collate import split
from .source import Corpus, Source
from .steps.note import values_of


@dataclass(frozen=True)
class Gauge:
    """The mean of a signal over each of some data sets, as the models are now: in eval mode, without gradient.

    Args:
        signal: What is measured; a mean over its units (trained tokens, or rows).
        over: The data sets.
        through: What the mean passes through, e.g. ``math.exp`` for a perplexity.
        batch_size: Rows read at once.
    """

    signal: Signal
    over: tuple[Corpus, ...]
    through: Callable[[float], float] | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not self.over or self.batch_size < 1:
            raise SettingError(
                "Gauge",
                got=f"{len(self.over)} data sets, batch_size={self.batch_size}",
                expected="a data set or more, and a batch_size of 1 or more",
                remedy="Name what is measured.",
            )

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the means: those of the data sets."""
        return tuple(corpus.name for corpus in self.over)

    def __call__(self, ws: Workspace) -> dict[str, float]:
        """The means by data set.

        Raises:
            DataError: A data set without a unit to measure.
        """
        return {name: self._mean(name, ws) for name in self.measures}

    def _mean(self, name: str, ws: Workspace) -> float:
        total, count = 0.0, 0
        for rows in split(ws.data[name], self.batch_size) if ws.data[name] else ():
            values = values_of(self.signal, rows, ws)[0]
            total, count = total + float(values.double().sum()), count + len(values)
        if not count:
            raise DataError(
                f"data set {name!r}",
                got=f"{len(ws.data[name])} rows without a trained position",
                expected="at least one position to measure",
                remedy="Check what was read or kept.",
            )
        return total / count if self.through is None else self.through(total / count)


@dataclass(frozen=True)
class Gauges:
    """Several gauges read as one: signals that differ by data set.

    Args:
        of: The gauges, no data set in two of them.
    """

    of: tuple[Gauge, ...]

    def __post_init__(self) -> None:
        if not self.of or len(set(self.measures)) < len(self.measures):
            raise SettingError(
                "Gauges",
                got=f"gauges over {', '.join(self.measures) or 'nothing'}",
                expected="one gauge or more, each over data sets of its own",
                remedy="Name each data set once.",
            )

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of all means."""
        return tuple(name for gauge in self.of for name in gauge.measures)

    def __call__(self, ws: Workspace) -> dict[str, float]:
        """The means by data set."""
        return {name: mean for gauge in self.of for name, mean in gauge(ws).items()}


@dataclass(eq=False)
class Gauged(Source, Memory):
    """A source that measures before every n-th step, the first included, and tells those that follow.

    Every process measures the same rows, so all of them are told the same.

    Args:
        source: Gives the rows.
        gauge: What is measured.
        tells: Memories inside the source or elsewhere in the stage, told by ``observe``.
        every: Optimiser steps from one measurement to the next.

    Raises:
        DataError: When rows that are measured are also rows to train on.
    """

    source: Source
    gauge: Gauge | Gauges
    tells: tuple[Memory, ...]
    every: int = 100

    def __post_init__(self) -> None:
        if self.every < 1:
            raise SettingError(
                "Gauged.every", got=str(self.every), expected="a whole number >= 1", remedy="Give the steps between."
            )
        self.reset()

    def doubt(self, here: Here) -> str:
        """A measurement that nothing follows."""
        if self.every < here.steps:
            return ""
        return f"what is measured each {self.every} steps is measured at the first alone in {here.steps}."

    def reset(self) -> None:
        """Nothing measured yet."""
        self._at, self._found = -1, {}

    def take(self, progress: Progress, ws: Workspace, size: int, slots: Sequence[int]) -> list[list[Record]]:
        """The source's rows, once the measurement that is due is taken."""
        if progress.step % self.every == 0 and progress.step != self._at:
            self._refuse_overlap(ws)
            self._found = self.gauge(ws)
            self._at = progress.step
            for memory in self.tells:
                memory.observe(progress, self._found)
        return self.source.take(progress, ws, size, slots)

    def figures(self) -> Mapping[str, float]:
        """The last measurement."""
        return {f"gauge.{name}": value for name, value in self._found.items()}

    def state_dict(self) -> dict[str, Any]:
        """The last measurement and its step."""
        return {"at": self._at, "found": dict(self._found)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._at, self._found = int(state["at"]), dict(state["found"])

    def _refuse_overlap(self, ws: Workspace) -> None:
        measured = {_content(r): name for name in self.gauge.measures for r in ws.data[name]}
        for _, part in walk(self.source):
            rows = ws.data[part.name] if isinstance(part, Corpus) else ()
            both = [r for r in rows if _content(r) in measured]
            if both:
                raise DataError(
                    f"record {both[0].id!r} of data set {part.name!r}",
                    got=f"{len(both)} rows that are also in {measured[_content(both[0])]!r}, which steers the training",
                    expected="rows to measure that are never trained on",
                    remedy="Part the two data sets, e.g. with skip and limit.",
                )


def _content(record: Record) -> tuple[str, ...]:
    return tuple(piece.content for piece in record.pieces)
