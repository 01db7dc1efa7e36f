"""Formulas that must mean the same: parsed by a small grammar of our own, compared by value at many places.

Nothing of an answer is ever evaluated as Python, and no formula is rewritten: both would let a text run for hours. Two
formulas that agree to 30 digits at eight random complex places are equal but for a coincidence.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from ...core.errors import DataError
from ...core.record import Record
from .grade import answer, field_of
from .numbers import boxed

DIGITS, PLACES, LONGEST, DEEPEST = 50, 8, 400, 40
FUNCTIONS = ("sqrt", "sin", "cos", "tan", "exp", "log", "ln", "abs", "asin", "acos", "atan", "sinh", "cosh", "tanh")
LATEX = (
    (r"\\(left|right|displaystyle|,|;|!|quad)(?![a-zA-Z])", ""),
    (r"\\[dt]frac", r"\\frac"),
    (r"\\(cdot|times)", "*"),
    (r"\\div", "/"),
    (r"\\text\{[^{}]*\}|\\mathrm\{[^{}]*\}|\\%|\$|\\\(|\\\)|\\\[|\\\]", ""),
    (r"\u2212", "-"),
    (r"\u00b7|\u00d7", "*"),
    (r"(?<=\d),(?=\d{3}(?!\d))", ""),
)
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "^": operator.pow}
TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)|\\?([a-zA-Z]+)|(\*\*|[-+*/^(){}\[\]|!]))")


@dataclass(frozen=True)
class Symbolic:
    r"""1 if the answer's formula equals the reference's, else 0.

    A text's formula is that of its last ``\boxed{...}``, else what follows its last ``=``, else its last line. Read are
    numbers, variables, ``+ - * / ^``, ``\frac``, ``\sqrt``, the usual functions, pi, e and products without a sign; a
    list in brackets is compared item by item. What cannot be read is wrong, unless it is the reference's very text.

    Args:
        field: The field with the reference.
    """

    field: str = "reference"

    def __call__(self, record: Record) -> float:
        wanted = formulas(str(field_of(record, self.field)))
        if not wanted:
            raise DataError(
                f"record {record.id!r}",
                got=f"nothing in {str(record.fields[self.field])[:60]!r}",
                expected=f"a formula in field {self.field!r}",
                remedy="Grade such rows by another verifier.",
            )
        said = formulas(answer(record))
        return float(len(said) == len(wanted) and all(same(a, b) for a, b in zip(said, wanted, strict=True)))


def formulas(text: str) -> list[str]:
    """The formula that a text ends on, cut at commas where it is a list in brackets."""
    inside = boxed(text)
    lines = (inside if inside is not None else text).strip().splitlines()
    last = lines[-1] if lines else ""
    last = last.rpartition("=")[2] if "=" in last else last
    for pattern, plain in LATEX:
        last = re.sub(pattern, plain, last)
    last = last.strip().rstrip(".").strip()
    if len(last) > 1 and last[0] in "([{\\" and last[-1] in ")]}" and "," in last:
        return [part.strip() for part in last.removeprefix("\\")[1:-1].rstrip("\\").split(",")]
    return [last] if last else []


def same(one: str, other: str) -> bool:
    """Whether two formulas have the same value wherever both have one."""
    if one.replace(" ", "") == other.replace(" ", ""):
        return True
    import mpmath

    try:
        trees = [_Parser(text).whole() for text in (one, other)]
    except ValueError:
        return False
    names = sorted({name for tree in trees for name in _names(tree)})
    random, agreed = Random(0), 0
    with mpmath.workdps(DIGITS):
        for _ in range(PLACES if names else 1):
            place = {n: mpmath.mpc(random.uniform(0.2, 2), random.uniform(-1, 1)) for n in names}
            try:
                a, b = (_value(tree, place, mpmath) for tree in trees)
                near = mpmath.fabs(a - b) <= mpmath.mpf(10) ** -30 * max(1, mpmath.fabs(a), mpmath.fabs(b))
            except (ValueError, ZeroDivisionError, OverflowError, TypeError):
                continue
            if not near:
                return False
            agreed += 1
    return agreed > 0


Tree = tuple[Any, ...]


class _Parser:
    """``sum := product (('+' | '-') product)*`` and so on down; a tree of tuples."""

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise ValueError("too long")
        self.tokens: list[str] = []
        self.depth = end = 0
        while end < len(text.rstrip()):
            found = TOKEN.match(text, end)
            if found is None:
                raise ValueError("unknown sign")
            end = found.end()
            self._take(found)

    def _take(self, found: re.Match[str]) -> None:
        word = found[2]
        known = (*FUNCTIONS, "frac", "pi")
        if word is None or word in known:
            self.tokens.append(found[1] or word or {"**": "^"}.get(found[3], found[3]))
        else:
            self.tokens += list(word)  # letters side by side are a product

    def whole(self) -> Tree:
        """The tree of the whole text."""
        tree = self._sum()
        if self.tokens:
            raise ValueError("something is left")
        return tree

    def _next(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def _pop(self, wanted: str = "") -> str:
        if not self.tokens or (wanted and self.tokens[0] != wanted):
            raise ValueError(f"no {wanted or 'more'}")
        return self.tokens.pop(0)

    def _sum(self) -> Tree:
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError("too deep")
        tree = self._product()
        while self._next() in ("+", "-"):
            tree = (self._pop(), tree, self._product())
        self.depth -= 1
        return tree

    def _product(self) -> Tree:
        tree = self._signed()
        while self._next() and self._next() not in "+-)}]|":
            sign = self._pop() if self._next() in ("*", "/") else "*"
            tree = (sign, tree, self._signed())
        return tree

    def _signed(self) -> Tree:
        if self._next() in ("+", "-"):
            sign, tree = self._pop(), self._signed()
            return ("-", ("number", "0"), tree) if sign == "-" else tree
        base = self._atom()
        if self._next() == "^":
            self._pop()
            return ("^", base, self._signed() if self._next() in ("+", "-") else self._power())
        return base

    def _power(self) -> Tree:
        base = self._atom()
        if self._next() != "^":
            return base
        self._pop()
        return ("^", base, self._signed())

    def _atom(self) -> Tree:
        token = self._pop()
        closing = {"(": ")", "{": "}", "[": "]", "|": "|"}.get(token)
        if closing:
            tree = self._sum()
            self._pop(closing)
            return ("abs", tree) if token == "|" else tree
        if token == "frac":
            above = self._atom()
            return ("/", above, self._atom())
        if token in FUNCTIONS:
            root = token == "sqrt" and self._next() == "["
            if root:
                degree = self._atom()
                return ("^", self._atom(), ("/", ("number", "1"), degree))
            return self._function(token)
        if token[0].isdigit() or token[0] == ".":
            return ("number", token)
        if token.isalpha():
            return ("name", token)
        raise ValueError(f"{token} out of place")

    def _function(self, name: str) -> Tree:
        power = None
        if self._next() == "^":  # sin^2 x
            self._pop()
            power = self._atom()
        tree = (name, self._atom() if self._next() in ("(", "{") else self._signed())
        return tree if power is None else ("^", tree, power)


def _names(tree: Tree) -> set[str]:
    if tree[0] == "name":
        return set() if tree[1] in ("pi", "e", "i") else {tree[1]}
    return set().union(*(_names(t) for t in tree[1:] if isinstance(t, tuple)))


def _value(tree: Tree, place: Mapping[str, Any], mp: Any) -> Any:
    if tree[0] == "number":
        return mp.mpf(tree[1])
    if tree[0] == "name":
        return {"pi": mp.pi, "e": mp.e, "i": mp.j}.get(tree[1]) or place[tree[1]]
    values = [_value(t, place, mp) for t in tree[1:]]
    if len(values) == 1:
        name = str(tree[0])
        function: Any = getattr(mp, {"abs": "fabs", "ln": "log"}.get(name, name))
        return function(values[0])
    a, b = values
    if tree[0] == "^" and mp.fabs(b) > 10**4:
        raise OverflowError("exponent")
    return SIGNS[tree[0]](a, b)
