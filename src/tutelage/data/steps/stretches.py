"""Stretches: an answer is written piece by piece and looked at in between, so that it can be stopped and cut back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from ...core.errors import SettingError
from ...core.record import Record
from ...core.workspace import Workspace
from .ask import Ask
from .note import Note

SETTLED = "settled"


class Stopper(Protocol):
    """A rule on the notes of an answer's tokens so far."""

    def __call__(self, values: Sequence[float]) -> int | None:
        """How many tokens to keep, or None to go on."""
        ...

    def learn(self, values: Sequence[float]) -> None:
        """An answer is finished; these were its notes."""
        ...


@dataclass(frozen=True)
class Stretches:
    """Answers in one piece, written ``step.max_tokens`` tokens at a time and stopped by a rule.

    After each stretch a note is written on the answers so far and the rule reads it. One that it stops is cut back to
    what it keeps, ids and notes alike, with the stop reason ``settled``; nothing more is written for it. A stretch goes
    on from the exact ids before it. The first one is drawn as ``step`` draws it, so with stretches as long as ``most``
    the rows are those of ``step``. The ledger counts answers ``finished`` and ``stopped`` of ``stretches``.

    Args:
        step: Writes the first stretch of each answer, and goes on with it.
        look: The note over tokens that the rule reads; it is computed for the whole answer each time.
        stop: The rule.
        most: Tokens of an answer at most, >= 1.
    """

    step: Ask
    look: Note
    stop: Stopper
    most: int
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if self.most < 1 or self.look.reads != "row":
            raise SettingError(
                "Stretches",
                got=f"most={self.most}, a note that reads {self.look.reads}",
                expected="at least 1 token, and a note of each row by itself",
                remedy="Note a divergence or a log-probability.",
            )

    @property
    def max_tokens(self) -> int:
        """The longest answer."""
        return self.most

    @property
    def times(self) -> int:
        """Answers a prompt."""
        return self.step.times

    def slots(self) -> frozenset[str]:
        """The model slots whose weights the rows depend on."""
        return self.step.slots() | self.look.slots()

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The answered rows, in order."""
        stretch = replace(self.step, max_tokens=min(self.step.max_tokens, self.most))
        rows, written = list(stretch(records, ws)), stretch.max_tokens
        going = list(range(len(rows)))
        for number in range(1, self.most + 1):
            for place, row in zip(going, list(self.look((rows[place] for place in going), ws)), strict=True):
                rows[place] = self._judged(row, written >= self.most, ws)
            going = [place for place in going if rows[place].pieces[-1].stop == "length"]
            if not going or written >= self.most:
                break
            stretch = replace(self.step, times=1, max_tokens=min(self.step.max_tokens, self.most - written))
            closed = (_closed(rows[place]) for place in going)
            answers = list(stretch(closed, ws.within(*ws.path, f"stretch {number}")))
            for place, answer in zip(going, answers, strict=True):
                rows[place] = self._joined(rows[place], answer, ws)
            written += stretch.max_tokens
        yield from rows

    def _judged(self, row: Record, last: bool, ws: Workspace) -> Record:
        answer = row.pieces[-1]
        values = answer.notes[self.look.name]
        kept = self.stop(values)
        if kept is not None:
            ids = (answer.ids or ())[:kept]
            notes = {name: some[:kept] for name, some in answer.notes.items()}
            answer = replace(answer, content=self._text(ids, ws), ids=ids, notes=notes, stop=SETTLED)
        if last or answer.stop != "length":
            self.stop.learn(values)
            ws.ledger.add("stretches", "finished" if kept is None else "stopped", tokens=len(answer.ids or ()))
        return replace(row, pieces=(*row.pieces[:-1], answer))

    def _joined(self, row: Record, answered: Record, ws: Workspace) -> Record:
        before, after = row.pieces[-1], answered.pieces[-1]
        ids = (*(before.ids or ()), *(after.ids or ()))
        text = self._text(ids[:-1] if after.stop == "eos" else ids, ws)
        notes = {name: (*before.notes[name], *some) for name, some in after.notes.items()}
        answer = replace(after, content=text, ids=ids, notes=notes)
        return replace(row, pieces=(*row.pieces[:-1], answer))

    def _text(self, ids: Sequence[int], ws: Workspace) -> str:
        return ws.models[self.step.writers[0]].tokenizer.decode(list(ids), skip_special_tokens=True)


def _closed(row: Record) -> Record:
    """The row with its answer so far as a part of the prompt."""
    return replace(row, pieces=tuple(replace(piece, trains=False) for piece in row.pieces))
