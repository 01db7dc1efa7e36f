"""Label: a field of the row becomes the number of its class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from ...core.errors import DataError, SettingError, unknown
from ...core.record import Record
from ...core.workspace import Workspace


@dataclass(frozen=True)
class Label:
    """Writes the place of a field's value among the classes as a note of the row.

    Args:
        field: The field that holds the label; its value is compared as text.
        classes: The labels, two or more, each once.
        name: The note.
    """

    field: str
    classes: tuple[str, ...]
    name: str = "label"
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise SettingError(
                "Label.classes",
                got=f"{list(self.classes)}",
                expected="two classes or more, each once",
                remedy="Name every value that the field may have.",
            )

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows, with the note.

        Raises:
            UnknownName: A label that is no class.
            DataError: A row without the field.
        """
        for record in records:
            if self.field not in record.fields:
                raise DataError(
                    f"record {record.id!r}",
                    got=f"fields {', '.join(map(repr, record.fields)) or 'none'}",
                    expected=f"a field {self.field!r} with the row's label",
                    remedy="Name the column that holds the label.",
                )
            value = str(record.fields[self.field])
            if value not in self.classes:
                raise unknown(f"label of record {record.id!r}", value, self.classes, "Name it among the classes.")
            yield replace(record, notes={**record.notes, self.name: float(self.classes.index(value))})
