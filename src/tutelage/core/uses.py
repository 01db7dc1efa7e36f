"""Which shared parts a recipe is made of, read off its tree."""

from __future__ import annotations

import inspect
from typing import Any

from .recipe import Recipe
from .schedule import walk

# The words of the design hold every recipe together; naming them for each says nothing.
WORDS = frozenset({"Recipe", "Term", "Update", "Per", "Read", "Uniform", "Train", "Constant", "Whole"})


def uses(recipe: Recipe) -> list[str]:
    """Names of the parts and functions in the tree, sorted."""
    found = {_name(part) for _, part in walk(recipe)}
    return sorted(n for n in found if n and n not in WORDS)


def parts(recipe: Recipe) -> dict[str, Any]:
    """The classes and functions behind those names."""
    found = {_name(part): part for _, part in walk(recipe)}
    made = {n: p if inspect.isfunction(p) or inspect.isclass(p) else type(p) for n, p in found.items()}
    return {name: made[name] for name in uses(recipe)}


def _name(part: Any) -> str:
    home = getattr(part, "__module__", "") or ""
    if not home.startswith("tutelage."):
        return ""
    if inspect.isfunction(part) or inspect.isclass(part):
        return part.__name__
    return type(part).__name__
