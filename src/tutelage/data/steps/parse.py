"""Parse: named parts of an answer's text become fields of the row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from ...core.errors import SettingError
from ...core.record import Record
from ...core.workspace import Workspace


@dataclass(frozen=True)
class Parse:
    """Writes what a pattern's named groups match into the row's fields, stripped of outer white space.

    Rows that do not match, or match with an empty group, are dropped and counted in the ledger as deeds ``parsed`` and
    ``unparsed`` of ``parse <groups>``, like those of ``Keep``.

    Args:
        pattern: A regular expression, searched with ``.`` matching line ends; its named groups are the fields. A
            greedy ``.*`` before a cue splits at the last cue.
        of: ``answer`` for the trained text, else the field that holds the text (``reference``: the data's own answer).
        whole: The field that gets the whole text where the pattern does not match, instead of dropping the row.
    """

    pattern: str
    of: str = "answer"
    whole: str = ""
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        try:
            names = tuple(re.compile(self.pattern).groupindex)
        except re.error as error:
            raise SettingError(
                "Parse.pattern", got=f"{self.pattern!r} ({error})", expected="a regular expression", remedy="Mend it."
            ) from error
        if not names:
            raise SettingError(
                "Parse.pattern",
                got=f"{self.pattern!r}, without named groups",
                expected="groups such as (?P<label>.*)",
                remedy="Name the parts; each becomes a field.",
            )

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows that match, with the fields."""
        name = f"parse {', '.join(re.compile(self.pattern).groupindex)}"
        for record in records:
            found = self._found(record)
            ws.ledger.add(name, "unparsed" if found is None else "parsed")
            if found is not None:
                yield replace(record, fields={**record.fields, **found})

    def _found(self, record: Record) -> dict[str, str] | None:
        if self.of == "answer":
            text = "".join(piece.content for piece in record.trained())
        else:
            text = str(record.fields.get(self.of, ""))
        match = re.search(self.pattern, text, re.DOTALL)
        found = {k: (v or "").strip() for k, v in match.groupdict().items()} if match else {}
        if found and all(found.values()):
            return found
        return {self.whole: text.strip()} if self.whole and text.strip() else None
