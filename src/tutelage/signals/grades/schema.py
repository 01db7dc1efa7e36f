"""JSON that must satisfy a schema."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ...core.errors import DataError, missing_extra
from ...core.record import Record
from .grade import answer, field_of

FENCE = re.compile(r"```[ \t]*(?:json)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
LONGEST = 1 << 20


@dataclass(frozen=True)
class Schema:
    """1 if the answer is JSON that satisfies the record's schema, else 0.

    The JSON is the answer's last fenced block, else the whole answer. References to schemas elsewhere are not fetched.

    Args:
        field: The field with the schema, as a mapping or as JSON text.
    """

    field: str = "schema"

    def __call__(self, record: Record) -> float:
        try:
            from jsonschema import exceptions, validators
            from referencing import Registry
        except ImportError:
            raise missing_extra("The verifier of JSON schemas", "jsonschema", "grades") from None
        schema = self._schema(record)
        kind = validators.validator_for(schema)
        try:
            kind.check_schema(schema)
        except exceptions.SchemaError as error:
            raise self._wrong(record, error.message) from None
        try:
            said = parsed(answer(record))
        except ValueError:
            return 0.0
        return float(kind(schema, registry=Registry()).is_valid(said))

    def _schema(self, record: Record) -> Any:
        found = field_of(record, self.field)
        try:
            return json.loads(found) if isinstance(found, str) else found
        except ValueError as error:
            raise self._wrong(record, str(error)) from None

    def _wrong(self, record: Record, got: str) -> DataError:
        return DataError(
            f"schema of record {record.id!r}", got=got, expected="a valid JSON schema", remedy="Mend the data's column."
        )


def parsed(text: str) -> Any:
    """The JSON of a text.

    Raises:
        ValueError: There is none, it is longer than a megabyte, nested too deeply, or has numbers JSON does not know.
    """
    blocks = FENCE.findall(text)
    text = blocks[-1] if blocks else text
    if len(text) > LONGEST:
        raise ValueError("too long")
    try:
        return json.loads(text, parse_constant=_refused)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
