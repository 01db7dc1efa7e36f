"""Errors: one tree, drawn as it is; four parts; each also the standard error that it refines."""

from __future__ import annotations

import builtins
import pickle
import re

import pytest

from tutelage.core import errors
from tutelage.core.errors import TutelageError

PARTS = {"got": "3", "expected": "at least 4", "remedy": "Raise it."}


def classes(root: type) -> list[type]:
    return [root, *(c for child in root.__subclasses__() if child.__module__ == errors.__name__ for c in classes(child))]


def drawn() -> dict[str, tuple[str, str]]:
    """Class to (parent, standard base), read off the docstring."""
    out, above = {}, {0: "TutelageError"}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│ ]*)[├└]── (\w+)\s+\((\w+)\)", line)
        if match:
            depth = len(match[1]) // 4 + 1
            above[depth] = match[2]
            out[match[2]] = above[depth - 1], match[3]
    return out


def test_the_drawn_tree_is_the_tree():
    tree = drawn()
    assert set(tree) == {c.__name__ for c in classes(TutelageError)} - {"TutelageError"}
    for name, (parent, base) in tree.items():
        found = getattr(errors, name)
        assert issubclass(found, getattr(errors, parent)) and getattr(errors, parent) in found.__bases__
        assert issubclass(found, getattr(builtins, base))


@pytest.mark.parametrize("error", classes(TutelageError), ids=lambda c: c.__name__)
def test_four_parts_survive_printing_pickling_and_raising(error):
    made = error("somewhere", **PARTS)
    assert str(made) == "somewhere: got 3; expected at least 4. Raise it."
    back = pickle.loads(pickle.dumps(made))
    assert type(back) is error and (back.where, back.got, back.expected, back.remedy) == ("somewhere", *PARTS.values())
    with pytest.raises(error):
        raise made


def test_unknown_names_near_ones_or_all():
    assert "Did you mean 'alpha'?" in str(errors.unknown("letter", "alpah", ["alpha", "beta"]))
    assert "Known: alpha, beta." in str(errors.unknown("letter", "zzz", ["beta", "alpha"]))
    assert "Known: none." in str(errors.unknown("letter", "zzz", []))
    assert "pip install 'tutelage[data]'" in str(errors.missing_extra("Parquet", "pyarrow", "data"))
