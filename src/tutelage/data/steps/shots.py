"""Demonstrations: solved rows in front of a prompt, and their removal once the answer is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ...core.errors import DataError, SettingError, unknown
from ...core.record import Piece, Record
from ...core.workspace import Workspace

PART = "demonstration"


@dataclass(frozen=True)
class Shots:
    """Puts solved rows of a data set in front of each prompt, as turns that do not train.

    They are the first ``num`` rows of the data set, in order, the row itself left out; so every prompt has the same
    prefix, which a server caches. A system turn stays in front. In plain text a blank line parts them.

    Args:
        data: The data set of the demonstrations; each row needs an answer.
        num: How many, at least 1.
    """

    data: str
    num: int = 8
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if self.num < 1:
            raise SettingError("Shots.num", got=str(self.num), expected="at least 1", remedy="8 to 10 is usual.")

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows, with demonstrations in front."""
        if self.data not in ws.data:
            raise unknown("Shots.data", self.data, ws.data, "Name the data set of the demonstrations under [data].")
        solved = ws.data[self.data][: self.num + 1]
        for row in solved:
            if not any(piece.trains for piece in row.pieces):
                raise DataError(
                    f"record {row.id!r} of {self.data!r}",
                    got="a demonstration without an answer",
                    expected="a piece that trains",
                    remedy="Give solved rows, e.g. with columns prompt and completion.",
                )
        for record in records:
            mine = _prompt(record)
            shown = [row for row in solved if _prompt(row) != mine][: self.num]
            yield replace(record, pieces=_joined(record.pieces, shown))


@dataclass(frozen=True)
class Without:
    """Removes the pieces of a part; what was written after them keeps its exact ids.

    Args:
        part: The part's name.
    """

    part: str = PART
    reads: ClassVar[str] = "row"

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows without the part."""
        for record in records:
            yield replace(record, pieces=tuple(p for p in record.pieces if p.part != self.part))


def _prompt(record: Record) -> tuple[str, ...]:
    return tuple(piece.content for piece in record.without_answer().pieces if piece.role != "system")


def _joined(pieces: Sequence[Piece], shown: Sequence[Record]) -> tuple[Piece, ...]:
    head = tuple(p for p in pieces if p.role == "system")
    turns: list[Piece] = []
    for row in shown:
        turns += [replace(p, trains=False, ids=None, part=PART) for p in row.pieces if p.role != "system"]
        if turns and turns[-1].role == "text":
            turns.append(Piece("\n\n", part=PART))
    return (*head, *turns, *(p for p in pieces if p.role != "system"))
