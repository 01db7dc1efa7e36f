"""A model as judge: it is asked, and the number in its answer is the grade."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

from ...core.errors import DataError, SettingError
from ...core.record import Piece, Record
from ...core.workspace import Workspace
from ...data.steps.ask import Ask
from .grade import answer
from .numbers import number

QUESTION = (
    "Question:\n{prompt}\n\nAnswer:\n{answer}\n\nReference:\n{reference}\n\n"
    "Is the answer right? Reply with one number from 0 (wrong) to 1 (right)."
)


@dataclass(frozen=True)
class Judge:
    """Asks a model about each record and writes the number it says, divided by ``most``, as a note of the row.

    The judge answers greedily, so the same record gets the same grade. Where it says no number within the scale the
    row gets ``unclear``, and the ledger counts it as deed ``unclear`` of ``judge <name>``; other rows are ``graded``.

    Args:
        who: The model slot that judges.
        name: The note's name.
        question: What it is asked; ``{prompt}``, ``{answer}`` and names of the record's fields are filled in.
        most: The top of the scale, > 0.
        unclear: The grade where it says no number in [0, most]; None stops the run and names the record.
        max_tokens: The judge's longest answer.
    """

    who: str = "judge"
    name: str = "right"
    question: str = QUESTION
    most: float = 1.0
    unclear: float | None = 0.0
    max_tokens: int = 16
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if not self.most > 0 or "{answer}" not in self.question:
            raise SettingError(
                "Judge",
                got=f"most={self.most}, question={self.question[:40]!r}",
                expected="most > 0, and a question with {answer} in it",
                remedy="The judge must see what it judges.",
            )

    def asks(self) -> tuple[tuple[str, str], ...]:
        """What it needs of whom: text."""
        return ((self.who, "text"),)

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The records with their grades, in order."""
        ask = Ask(self.who, max_tokens=self.max_tokens, temperature=0.0)
        while rows := list(islice(records, ask.batch_size)):
            said = ask(iter([self._asked(r) for r in rows]), ws)
            for record, reply in zip(rows, said, strict=True):
                value = self._value(record, answer(reply))
                ws.ledger.add(f"judge {self.name}", "unclear" if value is None else "graded")
                grade = (self.unclear or 0.0) if value is None else value
                yield replace(record, notes={**record.notes, self.name: grade})

    def _asked(self, record: Record) -> Record:
        prompt = record.without_answer().pieces
        chat = any(p.role != "text" for p in record.pieces)
        known: dict[str, Any] = {"reference": "", **record.fields}
        known |= {"prompt": "".join(p.content for p in prompt), "answer": answer(record)}
        # in one pass: what an answer says in braces is not filled in
        text = re.sub(r"\{(\w+)\}", lambda found: str(known.get(found[1], found[0])), self.question)
        return Record(record.id, (Piece(text, "user" if chat else "text", part="prompt"),))

    def _value(self, record: Record, reply: str) -> float | None:
        found = number(reply)
        value = None if found is None else float(found) / self.most
        if value is not None and 0 <= value <= 1 and math.isfinite(value):
            return value
        if self.unclear is not None:
            return None
        raise DataError(
            f"grade {self.name!r} of record {record.id!r}",
            got=f"{reply[:60]!r} from judge {self.who!r}",
            expected=f"a number from 0 to {self.most:g}",
            remedy="Ask more plainly, use a stronger judge, or set what an unclear answer is worth.",
        )
