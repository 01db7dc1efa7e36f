"""A stable text of a recipe tree, for hashes and for people."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def describe(tree: Any) -> str:
    """The tree as code-like text; the same in every process, as functions are named and not addressed."""
    if is_dataclass(tree) and not isinstance(tree, type):
        shown = ((f.name, getattr(tree, f.name)) for f in fields(tree) if f.repr)
        return f"{type(tree).__name__}({', '.join(f'{name}={describe(value)}' for name, value in shown)})"
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{k!r}: {describe(v)}" for k, v in tree.items()) + "}"
    if isinstance(tree, (tuple, list)):
        return "(" + ", ".join(map(describe, tree)) + ("," if len(tree) == 1 else "") + ")"
    if callable(tree):
        return getattr(tree, "__qualname__", type(tree).__qualname__)
    return repr(tree)


def digest(text: str) -> str:
    """16 hexadecimal digits that name a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
