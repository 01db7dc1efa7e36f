"""The pipeline: runs transforms one after another and gives each what it reads.

A transform never groups or collects by itself. It says what it reads: ``row`` (a stream of rows), ``group`` (called
once a group, with all its rows) or ``whole`` (called once with everything).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol

from ..core.errors import SettingError
from ..core.record import Record
from ..core.workspace import Workspace
from .collate import by_group

Reads = Literal["row", "group", "whole"]
READS = ("row", "group", "whole")
Transform = Callable[[Iterator[Record], Workspace], Iterator[Record]]


class Step(Protocol):
    """A transform that says what it reads."""

    @property
    def reads(self) -> str:
        """``row``, ``group`` or ``whole``."""
        ...

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """Records to records."""
        ...


def reads_of(step: Any) -> str:
    """What a transform reads.

    Raises:
        SettingError: It does not say, or says something else.
    """
    reads = getattr(step, "reads", None)
    if reads not in READS:
        raise SettingError(
            f"step {step!r}",
            got=f"reads={reads!r}",
            expected=f"a class attribute reads, one of {', '.join(READS)}",
            remedy="Say what the step reads: a plain function becomes a step by setting function.reads = 'row'.",
        )
    return reads


def run_steps(steps: Sequence[Any], records: Iterable[Record], ws: Workspace) -> Iterator[Record]:
    """The records that come out of the last step; rows stream as far as the steps allow.

    Raises:
        SettingError: A step does not say what it reads (raised at once, not when the first row is drawn).
    """
    plan = [(step, reads_of(step)) for step in steps]
    stream = iter(records)
    for step, reads in plan:
        stream = _groupwise(step, stream, ws) if reads == "group" else _run(step, stream, ws, reads == "whole")
    return stream


def _run(step: Any, records: Iterator[Record], ws: Workspace, whole: bool) -> Iterator[Record]:
    yield from step(iter(list(records)) if whole else records, ws)


def _groupwise(step: Any, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
    # the rows of a group need not be neighbours, so no group is known to be whole before the stream ends
    for group in by_group(list(records)):
        yield from step(iter(group), ws)
