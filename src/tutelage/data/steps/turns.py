"""Turns: a model writes, an environment replies, until there is nothing to reply to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...core.errors import DataError, SettingError, TutelageError
from ...core.record import Piece, Record
from ...core.workspace import Workspace

PART = "observation"


@dataclass(frozen=True)
class Turns:
    """Rows that a step answers, each followed by what an environment says to it, several times.

    What the environment says is an untrained ``user`` turn (plain text in a plain row) of the part ``observation``; the
    answers are trained pieces with their exact ids and notes. A row ends when the environment has nothing to say, when
    an answer was cut off by its length, or after ``most`` answers; rows come out in the order of their prompts.

    Args:
        step: Writes an answer, such as ``Ask``; with ``times`` the first turn makes the group.
        reply: ``Record -> text or None``; the record ends with the answer. None ends the row.
        most: Answers a row at most, >= 1.
    """

    step: Any
    reply: Callable[[Record], str | None]
    most: int = 4
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if self.most < 1:
            raise SettingError("Turns.most", got=str(self.most), expected="at least 1", remedy="4 to 16 is usual.")

    def slots(self) -> frozenset[str]:
        """The model slots whose weights the rows depend on."""
        return self.step.slots() if hasattr(self.step, "slots") else frozenset()

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows with all their turns, in order.

        Raises:
            DataError: The environment failed; the record is named.
        """
        rows = list(self.step(records, ws))
        again = replace(self.step, times=1) if getattr(self.step, "times", 1) > 1 else self.step
        going = list(range(len(rows)))
        for turn in range(1, self.most):
            said = [(place, self._reply(rows[place])) for place in going if not _is_cut(rows[place])]
            going = [place for place, text in said if text is not None]
            if not going:
                break
            told = [_with(rows[place], text) for place, text in said if text is not None]
            asked = (_closed(row) for row in told)
            answers = list(again(asked, ws.within(*ws.path, f"turn {turn}")))
            for place, row, answer in zip(going, told, answers, strict=True):
                rows[place] = _reopened(row, answer)
        yield from rows

    def _reply(self, record: Record) -> str | None:
        try:
            return self.reply(record)
        except TutelageError:
            raise
        except Exception as error:
            raise DataError(
                f"environment of record {record.id!r}",
                got=f"{type(error).__name__}: {error}",
                expected="a text, or None where it has nothing to say",
                remedy="Mend the environment or drop the record; rounds already trained on are kept.",
            ) from error


def _with(record: Record, text: str) -> Record:
    chat = any(piece.role != "text" for piece in record.pieces)
    return replace(record, pieces=(*record.pieces, Piece(text, "user" if chat else "text", part=PART)))


def _closed(record: Record) -> Record:
    """The row with its answers as a part of the prompt."""
    return replace(record, pieces=tuple(replace(piece, trains=False) for piece in record.pieces))


def _reopened(record: Record, answered: Record) -> Record:
    """The answered row, in which the earlier answers train again."""
    earlier: Sequence[Piece] = record.pieces
    return replace(answered, pieces=(*earlier, *answered.pieces[len(earlier) :]))


def _is_cut(record: Record) -> bool:
    return any(piece.stop == "length" for piece in record.trained())
