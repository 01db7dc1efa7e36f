"""Keep: let through the rows that satisfy a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from ...core.errors import DataError
from ...core.record import Record
from ...core.workspace import Workspace

Rule = Callable[[Record], bool]


@dataclass(frozen=True)
class Keep:
    """Rows for which the rule is true.

    What was let through and what was dropped is counted in the ledger, as deeds ``kept`` and ``dropped`` of
    ``keep <rule>``: calls are rows, tokens those that a model wrote for them.

    Args:
        rule: ``Record -> bool``.
    """

    rule: Rule
    reads: ClassVar[str] = "row"

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows that are kept, in order."""
        name = f"keep {getattr(self.rule, '__name__', repr(self.rule))}"
        for record in records:
            keeps = bool(self.rule(record))
            tokens = sum(len(piece.ids or ()) for piece in record.trained())
            ws.ledger.add(name, "kept" if keeps else "dropped", tokens=tokens)
            if keeps:
                yield record


@dataclass(frozen=True)
class Finished:
    """True if no answer was stopped by its length."""

    def __call__(self, record: Record) -> bool:
        """Whether the row satisfies it."""
        return all(piece.stop != "length" for piece in record.pieces)


@dataclass(frozen=True)
class Tokens:
    """True if the trained tokens that a model wrote are from ``least`` to ``most``."""

    least: int = 0
    most: int | None = None

    def __call__(self, record: Record) -> bool:
        """Whether the row satisfies it."""
        count = sum(len(piece.ids or ()) for piece in record.trained())
        return self.least <= count and (self.most is None or count <= self.most)


@dataclass(frozen=True)
class AtLeast:
    """True if a note of the row is at least a value."""

    note: str
    value: float

    def __call__(self, record: Record) -> bool:
        """Whether the row satisfies it."""
        return row_note(record, self.note) >= self.value


def row_note(record: Record, name: str) -> float:
    """A note of a row.

    Raises:
        DataError: The row does not have it.
    """
    if name not in record.notes:
        raise DataError(
            f"record {record.id!r}",
            got=f"notes {', '.join(sorted(record.notes)) or 'none'}",
            expected=f"a note {name!r} on the row",
            remedy="Write it with a Note step before this one.",
        )
    return float(record.notes[name])
