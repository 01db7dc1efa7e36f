"""Rescue: groups in which every answer failed get some that succeeded, found with help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ...core.errors import SettingError
from ...core.record import Record
from ...core.seeds import generator
from ...core.signal import Noted
from ...core.workspace import Workspace
from ..pipeline import reads_of, run_steps
from .keep import row_note

NOTE = "rescued"
RESCUED = Noted(NOTE, "rows")


@dataclass(frozen=True)
class AtMost:
    """True if the sum of some notes of the row is at most a value.

    Args:
        notes: The notes that add up.
        value: The largest sum that satisfies it.
    """

    notes: tuple[str, ...] = ("right",)
    value: float = 0.5

    def __call__(self, record: Record) -> bool:
        """Whether the row satisfies it."""
        return sum(row_note(record, name) for name in self.notes) <= self.value


@dataclass(frozen=True)
class Solved:
    """True if a note of the row is above a bound and its answer mentions none of some words.

    Args:
        note: The note.
        above: The bound.
        unsaid: Words that betray help which the prompt does not show, in any case of letters.
    """

    note: str = "right"
    above: float = 0.5
    unsaid: tuple[str, ...] = ()

    def __call__(self, record: Record) -> bool:
        """Whether the row satisfies it."""
        text = "".join(piece.content for piece in record.trained()).lower()
        return row_note(record, self.note) > self.above and not any(word.lower() in text for word in self.unsaid)


@dataclass(frozen=True)
class Rescue:
    """Where all rows of a group failed, replaces some by answers that succeeded when the model was helped.

    The prompt of the group goes once through ``helped``; if a row comes out, ``attempt`` runs on it, again and again,
    until ``most`` rows are solved or the tries are used up. They take the places of rows drawn at random, with those
    rows' ids, groups and fields, so nothing of the help stays but the answer. The note ``rescued`` of a row is 1 for
    one that was put in, else 0. The ledger counts ``called``, ``tried`` and ``found`` of ``rescue``.

    A group of which nothing is found stays as it is.

    Args:
        failed: ``Record -> bool``: whether a row failed.
        solved: ``Record -> bool``: whether an answer that was found may be put in.
        helped: Steps from the bare prompt to one with help in its fields.
        attempt: Steps from that prompt to graded answers, such as ``Through(Told("hint"), Ask(times=2))`` and a Grade.
        tries: Runs of ``attempt`` at most, >= 1.
        most: Rows put in at most, >= 1.
    """

    failed: Callable[[Record], bool]
    solved: Callable[[Record], bool]
    helped: tuple[Any, ...]
    attempt: tuple[Any, ...]
    tries: int = 5
    most: int = 2
    reads: ClassVar[str] = "group"

    def __post_init__(self) -> None:
        if self.tries < 1 or self.most < 1 or not self.attempt:
            raise SettingError(
                "Rescue",
                got=f"tries={self.tries}, most={self.most}, {len(self.attempt)} steps that answer",
                expected="at least 1 of each",
                remedy="5 tries for 2 answers are usual; without a rescue leave the step out.",
            )
        for step in (*self.helped, *self.attempt):
            reads_of(step)

    def slots(self) -> frozenset[str]:
        """The model slots whose weights the rows depend on."""
        steps = (*self.helped, *self.attempt)
        return frozenset[str]().union(*(step.slots() for step in steps if hasattr(step, "slots")))

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The group's rows, in order."""
        rows = list(records)
        found = self._found(rows, ws) if rows and all(self.failed(row) for row in rows) else []
        draw = generator(ws.seed, *ws.path, NOTE, rows[0].group if rows else "")
        taken = dict(zip(torch.randperm(len(rows), generator=draw).tolist(), found, strict=False))
        for place, row in enumerate(rows):
            if place in taken:
                row = replace(row, pieces=taken[place].pieces, notes={**row.notes, **taken[place].notes})
            yield replace(row, notes={**row.notes, NOTE: float(place in taken)})

    def _found(self, rows: list[Record], ws: Workspace) -> list[Record]:
        bare = replace(rows[0].without_answer(), id=rows[0].group or rows[0].id, group="", notes={})
        ws.ledger.add("rescue", "called")
        helped = list(run_steps(self.helped, [bare], ws.within(*ws.path, NOTE)))
        found: list[Record] = []
        for number in range(self.tries if helped else 0):
            ws.ledger.add("rescue", "tried")
            found += filter(self.solved, run_steps(self.attempt, helped, ws.within(*ws.path, NOTE, number)))
            if len(found) >= self.most:
                break
        ws.ledger.add("rescue", "found", calls=len(found[: self.most]))
        return found[: self.most]
