"""Revise: where an answer parts from the teacher most, the teacher's token is put in and the student goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...core.errors import SettingError
from ...core.record import Piece, Record
from ...core.signal import Signal
from ...core.workspace import Workspace
from .ask import Ask
from .note import Note

UNDRAWN = 1.0  # the log-probability of a token that no sampler drew: above 0, as no drawn one's is
Place = Callable[[Sequence[int], Sequence[int], Sequence[float]], "int | None"]


def worst(said: Sequence[int], best: Sequence[int], gap: Sequence[float]) -> int | None:
    """The first place of the largest gap among those where the token is not the teacher's, or None where all are."""
    bad = [place for place, (a, b) in enumerate(zip(said, best, strict=True)) if a != b]
    return max(bad, key=lambda place: (gap[place], -place)) if bad else None


@dataclass(frozen=True)
class Revise:
    """Puts the teacher's best token at one place of each answer and lets a model write on from there.

    What stands before the place is kept as it is, ids and notes; the token's own notes are 1, which no drawn token's
    log-probability is; an answer whose every token is the teacher's best stays as it was. The note ``revised`` of the
    row is 1 where a token was put in, else 0.

    Args:
        ask: Writes on; its ``max_tokens`` is the longest answer, revised part included.
        best: The note over tokens with the id of the teacher's most probable token.
        gap: The note over tokens with how far the two are apart.
        place: ``(ids, best, gaps) -> place or None``.
        name: Sets the draws of one revision apart from another's.
    """

    ask: Ask
    best: str = "best"
    gap: str = "gap"
    place: Place = worst
    name: str = "revision"
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if self.ask.times != 1:
            raise SettingError("Revise.ask", got=f"times={self.ask.times}", expected="1", remedy="One answer a row.")

    def slots(self) -> frozenset[str]:
        """The model slots whose weights the rows depend on."""
        return self.ask.slots()

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows, in order."""
        rows = [self._put(row, ws) for row in records]
        going = [n for n, row in enumerate(rows) if row.pieces[-1].stop == "length" and self._room(row) > 0]
        going = [n for n in going if rows[n].notes["revised"]]
        if going:
            longest = max(self._room(rows[n]) for n in going)
            closed = (_closed(rows[n]) for n in going)
            more = replace(self.ask, max_tokens=longest)(closed, ws.within(*ws.path, self.name))
            for place, answer in zip(going, list(more), strict=True):
                rows[place] = self._joined(rows[place], answer.pieces[-1], ws)
        yield from rows

    def _room(self, row: Record) -> int:
        return self.ask.max_tokens - len(row.pieces[-1].ids or ())

    def _put(self, row: Record, ws: Workspace) -> Record:
        """The row up to the place, with the teacher's token there."""
        answer = row.pieces[-1]
        ids, best = answer.ids or (), [int(b) for b in answer.notes[self.best]]
        place = self.place(ids, best, answer.notes[self.gap])
        notes = {n: v for n, v in answer.notes.items() if n not in (self.best, self.gap)}
        kept, told = replace(answer, notes=notes), {**row.notes, "revised": float(place is not None)}
        if place is not None:
            ids = (*ids[:place], best[place])
            ends = best[place] in ws.models[self.ask.writers[0]].stop_ids
            notes = {n: (*v[:place], UNDRAWN) for n, v in notes.items()}
            kept = replace(kept, ids=ids, notes=notes, stop="eos" if ends else "length")
            kept = replace(kept, content=self._text(kept, ws))
        return replace(row, pieces=(*row.pieces[:-1], kept), notes=told)

    def _joined(self, row: Record, more: Piece, ws: Workspace) -> Record:
        before, room = row.pieces[-1], self._room(row)
        stop = more.stop if len(more.ids or ()) <= room else "length"
        ids = (*(before.ids or ()), *(more.ids or ())[:room])
        notes = {n: (*v, *more.notes[n][:room]) for n, v in before.notes.items()}
        answer = replace(before, ids=ids, notes=notes, stop=stop)
        return replace(row, pieces=(*row.pieces[:-1], replace(answer, content=self._text(answer, ws))))

    def _text(self, piece: Piece, ws: Workspace) -> str:
        ids = list(piece.ids or ())
        written = ids[:-1] if piece.stop == "eos" else ids
        return ws.models[self.ask.writers[0]].tokenizer.decode(written, skip_special_tokens=True)


def _closed(row: Record) -> Record:
    """The row with its answer so far as a part of the prompt."""
    return replace(row, pieces=tuple(replace(piece, trains=False) for piece in row.pieces))


def revisions(ask: Ask, rounds: int, best: Signal, gap: Signal) -> tuple[Any, ...]:
    """The steps that revise answers several times: two notes, then one revision, each round.

    Args:
        ask: Writes on behind the teacher's token.
        rounds: Revisions of an answer, >= 0.
        best: The id of the teacher's most probable token at each unit.
        gap: How far teacher and student are apart at each unit.

    Raises:
        SettingError: Rounds below 0.
    """
    if rounds < 0:
        raise SettingError("revisions", got=f"rounds={rounds}", expected="0 or more", remedy="1 is usual.")
    notes = (Note("best", best), Note("gap", gap))
    return tuple(step for n in range(rounds) for step in (*notes, Revise(ask, name=f"revision {n}")))
