"""Tasks: one row becomes several, each asking for another of its fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from ...core.errors import DataError, SettingError
from ...core.record import Piece, Record
from ...core.workspace import Workspace
from .shots import PART


@dataclass(frozen=True)
class Task:
    """A question about a row.

    Args:
        name: The task's name, and that of the row note that is 1 on its rows and 0 on the others'.
        prefix: What stands in front of the prompt and tells the tasks apart.
        answer: The field that is the answer.
    """

    name: str
    prefix: str
    answer: str

    def __call__(self, record: Record) -> Record:
        """The row with its prompt as this task puts it: how a model trained on the task is asked."""
        pieces, num_asked = list(record.pieces), len(record.without_answer().pieces)
        asked = [n for n, p in enumerate(pieces[:num_asked]) if p.role in ("user", "text") and p.part != PART]
        if not asked:
            raise DataError(
                f"record {record.id!r}",
                got="no prompt",
                expected="a user turn or prompt text in front of the answer",
                remedy="Use prompt/completion or chat data.",
            )
        # the question: the last user turn, or the first stretch of plain text
        place = asked[-1] if pieces[asked[-1]].role == "user" else asked[0]
        pieces[place] = replace(pieces[place], content=self.prefix + pieces[place].content, ids=None)
        return replace(record, pieces=tuple(pieces))


@dataclass(frozen=True)
class Tasks:
    """Each row once for each task, in one group named by the row; a task whose field is empty is left out.

    Args:
        tasks: At least one, with different names.
    """

    tasks: tuple[Task, ...]
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) < len(names):
            raise SettingError(
                "Tasks", got=f"tasks {names}", expected="one or more, differently named", remedy="Name each task."
            )

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows of the tasks."""
        for record in records:
            for task in self.tasks:
                answer = record.fields.get(task.answer, "")
                if answer:
                    yield self._row(record, task, str(answer))

    def _row(self, record: Record, task: Task, answer: str) -> Record:
        asked = task(record.without_answer())
        role = "text" if asked.pieces[-1].role == "text" else "assistant"
        notes = {t.name: float(t is task) for t in self.tasks}
        return replace(
            asked,
            id=f"{record.id}:{task.name}",
            pieces=(*asked.pieces, Piece(answer, role, part="answer", trains=True)),
            notes={**record.notes, **notes},
            group=record.group or record.id,
        )
