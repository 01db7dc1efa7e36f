"""Procedural tasks that grade their own answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...core.record import Record
from ...data.tasks import task_of
from .grade import answer, field_of

TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Solves:
    """What the task that made the record says of the answer, in [0, 1].

    The answer is what stands in its last ``<answer>...</answer>``, else all of it.

    Args:
        field: The field that says how the task is made again.
    """

    field: str = "task"

    def __call__(self, record: Record) -> float:
        made = task_of(field_of(record, self.field), record.id)
        text = answer(record)
        tagged = TAGGED.findall(text)
        said = (tagged[-1] if tagged else text).strip()
        return float(made.score_answer(said, made[int(record.fields[self.field]["index"])]))
