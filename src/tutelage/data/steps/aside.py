"""Aside: what a model says about a row is kept in a field of the row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...core.errors import DataError
from ...core.record import Record
from ...core.workspace import Workspace


@dataclass(frozen=True)
class Aside:
    """Asks a model about a view of each row and keeps the text it answers in a field; the row is otherwise as it was.

    So a hint, a rationale or a rewritten question can be written by one step and told by a view to another.

    Args:
        view: ``Record -> Record``: what the model is asked.
        ask: The step that answers, such as ``Ask``, one row for each.
        field: The field that gets the text, without outer white space; it may be empty.
    """

    view: Callable[[Record], Record]
    ask: Any
    field: str

    @property
    def reads(self) -> str:
        """What the step that answers reads."""
        return self.ask.reads

    def slots(self) -> frozenset[str]:
        """The model slots that the text depends on."""
        return self.ask.slots() if hasattr(self.ask, "slots") else frozenset()

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows with the field, in order.

        Raises:
            DataError: The step that answers dropped or added rows.
        """
        rows = list(records)
        said = list(self.ask((self.view(row) for row in rows), ws.within(*ws.path, self.field)))
        if [row.id for row in said] != [row.id for row in rows]:
            raise DataError(
                f"field {self.field!r}",
                got=f"{len(said)} answers about {len(rows)} rows",
                expected="one answer for each row, under its id",
                remedy="Ask once (times=1) and drop rows in a step of its own.",
            )
        for row, answer in zip(rows, said, strict=True):
            text = "".join(piece.content for piece in answer.trained()).strip()
            yield replace(row, fields={**row.fields, self.field: text})
