"""Numbers in text: the boxed one, else the last one, exactly as a fraction."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ...core.errors import DataError
from ...core.record import Record
from .grade import answer, field_of

LONGEST = 400  # digits and exponent of a number that is read: more is no answer
NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-+\u2212])?\s?(?:[$\u20ac\u00a3]\s?)?"
    r"(?:\\[dt]?frac\s*\{\s*(?P<above>[-+]?\d+)\s*\}\s*\{\s*(?P<below>\d+)\s*\}"
    r"|(?P<whole>\d{1,3}(?:(?:,|\{,\}|\\,|\u00a0|\u202f)\d{3})+|\d+)?(?P<part>\.\d+)?(?:[eE](?P<power>[-+]?\d+))?"
    r"(?:\s?/\s?(?P<over>\d+)(?![\d.]))?)\s?(?P<percent>\\?%)?"
)


@dataclass(frozen=True)
class Number:
    r"""1 if the answer's number equals the reference's, else 0: exact arithmetic on fractions.

    A text's number is that of its last ``\boxed{...}``, else the one after its last ``####``, else its last. Read are
    signs, thousands separators, decimals, exponents, ``a/b``, ``\frac{a}{b}`` and percent.

    Args:
        field: The field with the reference: a number, or a text that holds one.
        tolerance: How far apart the two may be, relative to the reference; 0 asks for equality.
    """

    field: str = "reference"
    tolerance: float = 0.0

    def __call__(self, record: Record) -> float:
        wanted = number(str(field_of(record, self.field)))
        if wanted is None:
            raise DataError(
                f"record {record.id!r}",
                got=f"no number in {str(record.fields[self.field])[:60]!r}",
                expected=f"a number in field {self.field!r}",
                remedy="Grade such rows by another verifier.",
            )
        said = number(answer(record))
        if said is None:
            return 0.0
        return float(abs(said - wanted) <= Fraction(self.tolerance) * abs(wanted))


def number(text: str) -> Fraction | None:
    """The number that a text ends on, or None."""
    inside = boxed(text)
    if inside is not None:
        text = inside
    elif "####" in text:
        text = text.rpartition("####")[2]
    found = [m for m in NUMBER.finditer(text) if m["above"] or m["whole"] or m["part"]]
    return _value(found[-1]) if found else None


def boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{...}`` whose braces close, or None."""
    start = text.rfind(r"\boxed{")
    while start >= 0:
        depth = 0
        for place in range(start + len(r"\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start + len(r"\boxed{") : place]
        start = text.rfind(r"\boxed{", 0, start)
    return None


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > LONGEST or abs(int(match["power"] or 0)) > LONGEST:
        return None
    sign = -1 if match["sign"] in ("-", "\u2212") else 1
    if match["above"]:
        below = int(match["below"])
        value = Fraction(int(match["above"]), below) if below else None
    else:
        whole = re.sub(r"\D", "", match["whole"] or "")
        value = Fraction(f"{whole or 0}{match['part'] or ''}") * Fraction(10) ** int(match["power"] or 0)
        over = int(match["over"] or 1)
        value = value / over if over else None
    if value is None:
        return None
    return sign * value / (100 if match["percent"] else 1)
