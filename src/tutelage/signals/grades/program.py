"""Code that must pass its tests."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...core.record import Record
from .grade import answer, field_of
from .sandbox import Limits, run

FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Passes:
    """1 if the answer's program passes the record's tests in a sandbox, else 0.

    The program is the answer's last fenced block, else the whole answer; a body without the function's own head is put
    behind the prompt, as HumanEval asks for it.

    Args:
        tests: The field with the tests: Python that raises where the program is wrong.
        entry: The field with the name of the function; where it is there, ``check(NAME)`` is called after the tests.
        limits: Wall time, processor time and memory of a run.

    Source: arXiv:2107.03374.
    """

    tests: str = "test"
    entry: str = "entry_point"
    limits: Limits = Limits()

    def __call__(self, record: Record) -> float:
        name = str(record.fields.get(self.entry, ""))
        program = code(answer(record))
        if name and not re.search(rf"^def\s+{re.escape(name)}\b", program, re.MULTILINE):
            program = "".join(p.content for p in record.without_answer().pieces) + program
        call = f"\ncheck({name})\n" if name else "\n"
        return float(run(f"{program}\n\n{field_of(record, self.tests)}\n{call}", self.limits).passed)


def code(text: str) -> str:
    """The last fenced block of a text, else the text."""
    blocks = FENCE.findall(text)
    return blocks[-1] if blocks else text
