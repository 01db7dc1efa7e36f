"""Group: say which rows belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from ...core.errors import DataError
from ...core.record import Record
from ...core.workspace import Workspace


@dataclass(frozen=True)
class Group:
    """Rows with the same key form a group; an empty key leaves a row on its own.

    Args:
        by: A field's name, or ``Record -> str``.
    """

    by: str | Callable[[Record], str]
    reads: ClassVar[str] = "row"

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows with their groups."""
        for record in records:
            yield replace(record, group=str(self._key(record)))

    def _key(self, record: Record) -> object:
        if not isinstance(self.by, str):
            return self.by(record)
        if self.by not in record.fields:
            raise DataError(
                f"record {record.id!r}",
                got=f"fields {', '.join(sorted(record.fields)) or 'none'}",
                expected=f"a field {self.by!r}",
                remedy="Group by a field that every row has.",
            )
        return record.fields[self.by]
