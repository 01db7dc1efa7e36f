"""Budgets: what is short stays readable. There are no exceptions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tutelage

HOME = Path(tutelage.__file__).parent
FILES = sorted(HOME.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
SHARED = ("core", "signals", "voices", "data", "surgery", "training")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def name(path: Path) -> str:
    return str(path.relative_to(HOME))


def code_lines(text: str) -> int:
    """Lines that are neither blank, comment nor docstring."""
    tree, lines = ast.parse(text), text.splitlines()
    docs: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node) is not None:
            docs |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return sum(1 for i, line in enumerate(lines, 1) if line.strip() and not line.strip().startswith("#") and i not in docs)


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    return (n for n in ast.walk(TREES[path]) if isinstance(n, FUNCTIONS))


def body_lines(function: ast.FunctionDef) -> int:
    """Lines after the signature and the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def dataclass_settings(node: ast.ClassDef) -> list[str]:
    """The names a caller of a dataclass may give."""
    if not any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        return []
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    fields = [f for f in fields if "ClassVar" not in ast.unparse(f.annotation)]
    return [f.target.id for f in fields if f.value is None or "init=False" not in ast.unparse(f.value)]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_modules_have_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_the_loop_has_at_most_300_lines_of_code():
    text = (HOME / "training" / "loop.py").read_text()
    assert code_lines(text) <= 300


@pytest.mark.parametrize("path", FILES, ids=name)
def test_functions_have_at_most_40_lines(path):
    long = {f.name: body_lines(f) for f in functions(path) if body_lines(f) > 40}
    assert not long


@pytest.mark.parametrize("path", [p for p in FILES if name(p).split("/")[0] in SHARED], ids=name)
def test_shared_parts_take_at_most_7_settings(path):
    many = {}
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ClassDef) and "__call__" in {n.name for n in node.body if isinstance(n, FUNCTIONS)}:
            settings = dataclass_settings(node)
            if len(settings) > 7:
                many[node.name] = settings
    assert not many


@pytest.mark.parametrize("path", [p for p in (HOME / "recipes").glob("*.py")], ids=name)
def test_recipes_have_at_most_60_lines_of_code(path):
    assert code_lines(path.read_text()) <= 60


@pytest.mark.parametrize("path", FILES, ids=name)
def test_everything_public_is_documented(path):
    """Modules, classes, functions, and methods that no parent documents."""
    tree, bare = TREES[path], []
    if path.read_text().strip() and not ast.get_docstring(tree):
        bare.append("module")
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
            bare.append(node.name)
    for node in tree.body:
        if isinstance(node, FUNCTIONS) and not node.name.startswith("_") and not ast.get_docstring(node):
            bare.append(node.name)
    assert not bare
