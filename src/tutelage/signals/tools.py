"""Tools: what an environment replies to an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import unknown
from ..core.outside import function_of
from ..core.record import Record
from .grades.program import FENCE
from .grades.sandbox import Limits, run

Tool = Callable[[Record], "str | None"]


@dataclass(frozen=True)
class Interpreter:
    """What the last fenced Python program of the last answer prints, or how it failed; None where there is none.

    The program runs in the sandbox of ``grades.sandbox``: its own process, limits, no network where possible.

    Args:
        limits: Wall time, processor time and memory of a run.
    """

    limits: Limits = Limits()

    def __call__(self, record: Record) -> str | None:
        """The observation."""
        last = list(record.trained())[-1:]
        programs = FENCE.findall(last[0].content) if last else []
        if not programs:
            return None
        ended = run(programs[-1], self.limits)
        said = ended.printed if ended.passed else "\n".join(x for x in (ended.printed, f"error: {ended.why}") if x)
        return said or "(nothing was printed)"


def find(name: str) -> Tool:
    """A tool by name, or a function of one's own from a Python file: ``def FILE_STEM(record) -> str | None``.

    Names: ``python``.

    Raises:
        UnknownName: No tool is called so.
        StoreError: No such file.
        SettingError: The file does not import, or holds no such function.
    """
    if name.endswith(".py"):
        path = Path(name)
        return function_of(path, "tool", f"def {path.stem}(record) -> str or None")
    known = {"python": Interpreter}
    if name not in known:
        raise unknown("tool", name, known, "Or give the path of a Python file with a function of its name.")
    return known[name]()
