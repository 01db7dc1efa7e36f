"""A method is a short composition found by its file's name; nothing branches on a method's name."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import tutelage
from tutelage.core import catalog
from tutelage.core.recipe import Recipe

HOME = Path(tutelage.__file__).parent
ROOT = HOME.parents[1]
FILES = sorted(HOME.rglob("*.py"))
SWITCHES = {"method", "loss_type", "kind", "mode", "objective_name", "algorithm"}


def name(path: Path) -> str:
    return str(path.relative_to(HOME))


@pytest.mark.parametrize("recipe", catalog.names())
def test_a_recipe_is_its_file_its_function_and_its_card(recipe):
    build = catalog.find(recipe)
    card = catalog.card(build)
    path = Path(inspect.getfile(inspect.unwrap(build)))
    assert path.stem == build.__name__ == card.name == recipe
    assert card.family and card.paper and card.formula and card.summary.endswith(".") and card.axes
    assert card.limits, "every recipe names its relation to another"
    assert all(limit.endswith(".") for limit in card.limits)
    arguments = catalog.parameters(build)
    assert card.arguments.keys() == arguments.keys()
    assert all(card.arguments.values())
    for parameter in arguments.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is not inspect.Parameter.empty
        assert parameter.annotation != inspect.Parameter.empty
    assert isinstance(build(), Recipe)


@pytest.mark.parametrize("path", sorted((HOME / "recipes").glob("*.py")), ids=name)
def test_recipes_hold_no_mathematics_and_no_classes(path):
    tree = ast.parse(path.read_text())
    named = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    named |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {n for n in named if n.split(".")[0] in ("torch", "numpy", "transformers")}
    assert not [n for n in ast.walk(tree) if isinstance(n, (ast.ClassDef, ast.Lambda))]


@pytest.mark.parametrize("path", [p for p in FILES if name(p).split("/")[0] != "cli"], ids=name)
def test_nothing_compares_with_a_methods_name(path):
    names = set(catalog.names())
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            texts = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
            found += sorted(texts & names)
        if isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant) and node.value.value in names:
            found.append(node.value.value)
    assert not found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_parameter_is_a_switch(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.arguments):
            every = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            found += [a.arg for a in every if a.arg in SWITCHES and "type[" not in ast.unparse(a.annotation or ast.Constant(""))]
        if isinstance(node, ast.ClassDef):
            fields = [n.target for n in node.body if isinstance(n, ast.AnnAssign)]
            found += [f.id for f in fields if isinstance(f, ast.Name) and f.id in SWITCHES]
    assert not found


def test_public_names():
    assert tutelage.__all__ == sorted(tutelage.__all__)
    for public in tutelage.__all__:
        assert getattr(tutelage, public).__doc__
    assert set(tutelage.__all__) == {
        "Finished", "RunFile", "TutelageError", "compare", "evaluate", "load", "plan", "report", "run"
    }
    with pytest.raises(AttributeError, match="distil"):
        tutelage.distil  # noqa: B018


def test_no_path_of_a_machine_is_in_the_repository():
    """Whoever clones it has other folders."""
    places = ("/".join(("", "work", "")), "/".join(("", "root", "")), "/".join(("", "home", "")))
    suffixes = {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".css", ".js", ".html", ".j2", ".jinja", ""}
    folders = ("src", "tests", "docs", "examples", "tools", "benchmarks", ".ci")
    paths = [p for f in folders for p in (ROOT / f).rglob("*") if p.is_file()] + [p for p in ROOT.iterdir() if p.is_file()]
    found = []
    for path in paths:
        if path.suffix in suffixes and "__pycache__" not in path.parts and path.stat().st_size < 1 << 20:
            text = path.read_text(errors="replace")
            found += [f"{path.relative_to(ROOT)}: {place}" for place in places if place in text]
    assert not found
