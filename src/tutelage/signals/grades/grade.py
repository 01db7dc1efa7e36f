"""Grade: a verifier's number, written on the row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from ...core.errors import DataError, SettingError, TutelageError, unknown
from ...core.outside import function_of
from ...core.record import Record
from ...core.workspace import Workspace

Verifier = Callable[[Record], float]
BATCH = 64


@dataclass(frozen=True)
class Grade:
    """Writes what a verifier says of each record as a note of the row.

    An answer that its length cut off gets ``unfinished`` without being looked at. How many rows were graded, and how
    many of them unfinished, is counted in the ledger as deeds ``graded`` and ``unfinished`` of ``grade <name>``.

    Args:
        by: ``Record -> number``; see the other files of this folder for ready ones.
        name: The note's name.
        unfinished: The grade of a cut answer; None grades it like any other.
        workers: Records graded at the same time, for verifiers that wait for a program.
    """

    by: Verifier
    name: str = "right"
    unfinished: float | None = 0.0
    workers: int = 1
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingError(
                "Grade.workers", got=str(self.workers), expected="at least 1", remedy="1 grades one after the other."
            )

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The records with their grades, in order.

        Raises:
            DataError: The verifier failed, or gave no finite number; the record is named.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            while rows := list(islice(records, BATCH)):
                values = map(self._value, rows) if self.workers == 1 else pool.map(self._value, rows)
                for record, value in zip(rows, values, strict=True):
                    cut = self.unfinished is not None and _is_cut(record)
                    ws.ledger.add(f"grade {self.name}", "unfinished" if cut else "graded")
                    yield replace(record, notes={**record.notes, self.name: value})

    def _value(self, record: Record) -> float:
        if self.unfinished is not None and _is_cut(record):
            return self.unfinished
        try:
            value = float(self.by(record))
        except TutelageError:
            raise
        except Exception as error:
            raise self._wrong(record, f"{type(error).__name__}: {error}") from error
        if not math.isfinite(value):
            raise self._wrong(record, str(value))
        return value

    def _wrong(self, record: Record, got: str) -> DataError:
        text = answer(record)
        return DataError(
            f"grade {self.name!r} of record {record.id!r}",
            got=f"{got} for the answer {text[:60]!r}{' ...' if len(text) > 60 else ''}",
            expected="a finite number",
            remedy="Mend the verifier or drop the record. Nothing was trained on it; finished rows and the last "
            "checkpoint are kept, and the same command goes on.",
        )


def answer(record: Record) -> str:
    """The text of the pieces that train, joined."""
    return "".join(piece.content for piece in record.trained())


def field_of(record: Record, name: str) -> Any:
    """A field of the record.

    Raises:
        DataError: The record does not have it.
    """
    if name not in record.fields:
        raise DataError(
            f"record {record.id!r}",
            got=f"fields {', '.join(sorted(record.fields)) or 'none'}",
            expected=f"a field {name!r} to grade by",
            remedy="Give the data that column; an answer of the data's own is kept in 'reference'.",
        )
    return record.fields[name]


def find(name: str) -> Verifier:
    """A verifier by name, or a function of one's own from a Python file: ``def FILE_STEM(record) -> float``.

    Names: ``exact``, ``number``, ``symbolic``, ``schema``, ``program``, ``task``.

    Raises:
        UnknownName: No verifier is called so.
        StoreError: No such file.
        SettingError: The file does not import, or holds no such function.
    """
    if name.endswith(".py"):
        path = Path(name)
        return function_of(path, "verifier", f"def {path.stem}(record) -> float")
    from .numbers import Number
    from .program import Passes
    from .schema import Schema
    from .symbols import Symbolic
    from .task import Solves
    from .text import Exact

    known = {
        "exact": Exact, "number": Number, "symbolic": Symbolic, "schema": Schema, "program": Passes, "task": Solves
    }  # fmt: skip
    if name not in known:
        raise unknown("verifier", name, known, "Or give the path of a Python file with a function of its name.")
    return known[name]()


def _is_cut(record: Record) -> bool:
    return any(piece.stop == "length" for piece in record.trained())
