"""Stash: an answer is put aside under a name, so that another can be written to the same prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from ...core.errors import SettingError
from ...core.record import Record
from ...core.workspace import Workspace


@dataclass(frozen=True)
class Stash:
    """Writes the text of the row's answer as a field, and takes the answer away.

    Args:
        name: The field; ``reference`` is what answers are judged by, so it may not be that.
    """

    name: str
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if self.name in ("", "reference"):
            raise SettingError(
                "Stash.name", got=repr(self.name), expected="a name of its own", remedy="Call it after who wrote it."
            )

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The prompts, each with the field."""
        for record in records:
            answer = "".join(piece.content for piece in record.trained())
            yield replace(record.without_answer(), fields={**record.fields, self.name: answer})
