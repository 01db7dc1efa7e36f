"""Views: what a voice reads of a record besides, or instead of, what the student reads.

A view may change only what does not train: the answer's pieces are the same ids in every view, so collate aligns them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..core.errors import DataError
from ..core.record import Record


@dataclass(frozen=True)
class Told:
    """The prompt's last piece, with something of the record's fields told at its end: a privileged view.

    Args:
        field: The field that is told; a step that asks a model keeps the data's own answer in ``reference``.
        before: Stands before it.
        after: Stands after it.
    """

    field: str = "reference"
    before: str = "\n\n"
    after: str = ""

    def __call__(self, record: Record) -> Record:
        """The record as the informed voice reads it.

        Raises:
            DataError: The record lacks the field or a prompt, or what it would be told is empty.
        """
        told = str(record.fields.get(self.field) or "")
        answer = next((i for i, p in enumerate(record.pieces) if p.trains), len(record.pieces))
        asked = [i for i, p in enumerate(record.pieces[:answer]) if p.role in ("user", "text")]
        if not told or not asked:
            raise DataError(
                f"record {record.id!r}",
                got=f"nothing in field {self.field!r}" if asked else "no prompt",
                expected="a prompt, and something to tell the informed voice",
                remedy="Give the data a column with the reference solution, or answers of its own.",
            )
        pieces = list(record.pieces)
        last = pieces[asked[-1]]
        pieces[asked[-1]] = replace(last, content=f"{last.content}{self.before}{told}{self.after}", ids=None)
        return replace(record, pieces=tuple(pieces))
