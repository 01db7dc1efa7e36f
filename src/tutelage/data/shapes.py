"""The shapes of rows: plain text, prompt and completion, chat."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import DataError
from ..core.record import Piece, Record

WRITTEN = ({"id", "pieces"}, {"id", "pieces", "fields", "notes", "group", "origin"})
COLUMNS = ("id", "text", "prompt", "completion", "messages")
TURN_ROLES = ("system", "user", "assistant")


def is_written(row: Mapping[str, Any]) -> bool:
    """Whether a row is a record that a run wrote."""
    needed, known = WRITTEN
    return needed <= set(row) <= known


def written(row: Mapping[str, Any], where: str) -> Record:
    """The record of a row that a run wrote.

    Raises:
        DataError: Its pieces are not what a run writes.
    """
    try:
        return Record.from_dict(row)
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(
            where,
            got=f"a record that cannot be read: {error}",
            expected="a row as a run writes it",
            remedy="Restore the file.",
        ) from None


@dataclass(frozen=True)
class Shape:
    """How the rows of one file become records.

    Args:
        names: The file's column for each of ours that is read.
        chat: Prompt and completion are turns.
    """

    names: Mapping[str, str]
    chat: bool

    def record(self, row: Mapping[str, Any], where: str, default_id: str, origin: str) -> Record:
        """The record of a row.

        Raises:
            DataError: A column is missing, empty or of a wrong type.
        """
        if "messages" in self.names:
            pieces = _turns(self._get(row, "messages", where, list), where)
        elif "text" in self.names:
            pieces = (Piece(self._text(row, "text", where), part="text", trains=True),)
        else:
            pieces = self._answered(row, where)
        used = set(self.names.values())
        fields = {k: v for k, v in row.items() if k not in used}
        return Record(self._id(row, where, default_id), pieces, fields, origin=origin)

    def _answered(self, row: Mapping[str, Any], where: str) -> tuple[Piece, ...]:
        asks, says = ("user", "assistant") if self.chat else ("text", "text")
        prompt = Piece(self._text(row, "prompt", where), role=asks, part="prompt")
        if "completion" not in self.names:
            return (prompt,)
        answer = self._get(row, "completion", where, str)
        return prompt, Piece(answer, role=says, part="answer", trains=True)

    def _id(self, row: Mapping[str, Any], where: str, default: str) -> str:
        if "id" not in self.names:
            return default
        value = self._get(row, "id", where, (str, int))
        if isinstance(value, bool) or value == "":
            raise _wrong(where, self.names["id"], value, "text or a whole number")
        return str(value)

    def _text(self, row: Mapping[str, Any], name: str, where: str) -> str:
        text = self._get(row, name, where, str)
        if not text:
            raise _wrong(where, self.names[name], text, "text that is not empty")
        return text

    def _get(self, row: Mapping[str, Any], name: str, where: str, types: type | tuple[type, ...]) -> Any:
        column = self.names[name]
        if column not in row:
            raise missing_column(where, column, row)
        if not isinstance(row[column], types):
            raise _wrong(where, column, row[column], _TYPES[name])
        return row[column]


_TYPES = {
    "id": "text or a whole number",
    "text": "text",
    "prompt": "text",
    "completion": "text",
    "messages": "a list of messages",
}


def shape_of(row: Mapping[str, Any], columns: Mapping[str, str], chat: bool, where: str) -> Shape:
    """The shape that a file's first row shows.

    A column that the map names must be there; others are read if they are.

    Raises:
        DataError: None of the shapes fits; near names are listed.
    """
    for name in columns:
        if columns[name] not in row:
            raise missing_column(where, columns[name], row)
    names = {name: columns.get(name, name) for name in COLUMNS if columns.get(name, name) in row}
    wanted = [name for name in ("messages", "prompt", "text") if name in names]
    named = [name for name in wanted if name in columns] or wanted
    if not named:
        raise missing_column(where, "prompt, text or messages", row)
    keep = {"prompt": ("prompt", "completion")}.get(named[0], (named[0],))
    return Shape({name: names[name] for name in ("id", *keep) if name in names}, chat)


def missing_column(where: str, column: str, row: Mapping[str, Any]) -> DataError:
    """The error for a column that is not there, with its near matches."""
    near = [m for name in column.replace(" or ", ", ").split(", ") for m in difflib.get_close_matches(name, row, n=2)]
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    return DataError(
        where,
        got=f"columns {', '.join(map(repr, row)) or 'none'}",
        expected=f"a column {column}",
        remedy=f'{hint}Map yours with columns, e.g. {{"prompt": "question", "completion": "answer"}}.',
    )


def _wrong(where: str, column: str, value: Any, expected: str) -> DataError:
    got = f"{type(value).__name__} {str(value)[:40]!r} in column {column!r}"
    return DataError(where, got=got, expected=expected, remedy="Mend or remove the row.")


def _turns(messages: list[Any], where: str) -> tuple[Piece, ...]:
    if not messages:
        raise _wrong(where, "messages", messages, "at least one message")
    return tuple(_turn(message, f"{where}, message {number}") for number, message in enumerate(messages, start=1))


def _turn(message: Any, where: str) -> Piece:
    if not isinstance(message, dict):
        raise _wrong(where, "messages", message, "an object with role and content")
    for name in ("role", "content"):
        if name not in message:
            raise missing_column(where, name, message)
    role, content, trains = message["role"], message["content"], message.get("trains")
    if role not in TURN_ROLES:
        raise _wrong(where, "role", role, f"one of {', '.join(TURN_ROLES)}")
    if not isinstance(content, str):
        raise _wrong(where, "content", content, "text")
    if trains is not None and not isinstance(trains, bool):
        raise _wrong(where, "trains", trains, "true or false")
    answers = role == "assistant"
    return Piece(content, role, part="answer" if answers else "prompt", trains=answers if trains is None else trains)
