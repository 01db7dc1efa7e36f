"""Facts of a run: what its results depend on, and when two RunFiles are the same run."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..core.describe import describe, digest
from ..core.recipe import Recipe
from .runfile import RunFile

VERSIONS = ("tutelage", "torch", "transformers", "accelerate", "safetensors")
PLACES = ("url", "api_key_env", "timeout_seconds", "retry_seconds", "concurrency", "watch_seconds")
"""Where a server is and how it is asked: what it says does not depend on that."""


def recipe_hash(run: RunFile, recipe: Recipe) -> str:
    """What the runs of several seeds share: the recipe and every setting but name, seed and place."""
    settings = run.model_dump_json(exclude={"name", "seed", "output"})
    return digest(describe(recipe) + settings)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": sys.version.split()[0]}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def same_run(old: str, new: str) -> bool:
    """Whether two resolved RunFiles are one run: a model's server may stand elsewhere than before."""
    return old == new or _unplaced(old) == _unplaced(new)


def first_difference(old: str, new: str) -> str:
    """A line that stands in one text and not in the other."""
    texts = ([x for x in text.splitlines() if x.partition(" = ")[0] not in PLACES] for text in (old, new))
    before, after = texts
    gone = [line for line in before if line.strip() and line not in after]
    come = [line for line in after if line.strip() and line not in before]
    return f"{(gone or ['nothing'])[0]!r} there, {(come or ['nothing'])[0]!r} now"


def _unplaced(text: str) -> dict[str, Any]:
    table = tomllib.loads(text)
    for model in table.get("models", {}).values():
        for name in PLACES:
            model.get("server", {}).pop(name, None)
    return table
