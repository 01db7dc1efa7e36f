"""Recipes by file name: a file of ``tutelage.recipes`` holds one function of the same name.

Nothing is registered by hand, so a new method edits no shared list. A file outside the package is named by its path.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import SettingError, TutelageError, unknown
from .outside import function_of
from .recipe import Card, Recipe

PACKAGE = "tutelage.recipes"
HELPERS = frozenset({"base"})


def names() -> list[str]:
    """Every recipe's name."""
    package = importlib.import_module(PACKAGE)
    found = (m.name for m in pkgutil.iter_modules(package.__path__))
    return sorted(n for n in found if n not in HELPERS and not n.startswith("_"))


def find(name: str) -> Callable[..., Recipe]:
    """The recipe function of a name, or of a path to a Python file."""
    if name.endswith(".py"):
        path = Path(name)
        expected = f"a function {path.stem!r} marked with @recipe"
        return function_of(path, "recipe file", expected, lambda found: hasattr(found, "card"))
    slug = name.replace("-", "_")
    if slug not in names():
        raise unknown("recipe", name, names(), "`tutelage list` shows them all.")
    return getattr(importlib.import_module(f"{PACKAGE}.{slug}"), slug)


def card(build: Callable[..., Recipe]) -> Card:
    """The card of a recipe function."""
    return build.card  # type: ignore[attr-defined]


def parameters(build: Callable[..., Recipe]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a recipe."""
    return inspect.signature(build).parameters


def build(name: str, arguments: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from its name and arguments; names, types and ranges are checked here, before anything loads."""
    function, given = find(name), dict(arguments or {})
    known = parameters(function)
    hints = typing.get_type_hints(inspect.unwrap(function))
    for key, value in given.items():
        if key not in known:
            raise unknown(f"argument of recipe {name!r}", key, known, f"`tutelage show {name}` explains them.")
        if not _fits(value, hints.get(key, Any)):
            raise SettingError(
                f"argument {key!r} of recipe {name!r}",
                got=f"{value!r} ({type(value).__name__})",
                expected=str(known[key].annotation),
                remedy=f"`tutelage show {name}` explains it.",
            )
    try:
        return function(**given)
    except TutelageError:
        raise
    except TypeError as error:
        raise SettingError(
            f"recipe {name!r}",
            got=str(error),
            expected="all of its required arguments",
            remedy=f"`tutelage show {name}` lists them.",
        ) from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a TOML value fits a type hint; a whole number fits float."""
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, h) for h in typing.get_args(hint))
    if origin in (tuple, list):
        inner = typing.get_args(hint)[0]
        return isinstance(value, (tuple, list)) and all(_fits(v, inner) for v in value)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is type(None):
        return value is None
    return isinstance(value, hint) if isinstance(hint, type) else True
