"""Facts of a run: what its results depend on, and when two RunFiles are the same run."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..core.describe import describe, digest
from ..core.errors import StoreError
from ..core.recipe import Recipe
from .runfile import RunFile

VERSIONS = ("tutelage", "torch", "transformers", "accelerate", "safetensors")
PLACES = ("url", "also", "api_key_env", "timeout_seconds", "retry_seconds", "concurrency", "watch_seconds")
"""Where a server is and how it is asked: what it says does not depend on that."""


def recipe_hash(run: RunFile, recipe: Recipe) -> str:
    """What the runs of several seeds share: the recipe and every setting but name, seed and place."""
    places: Any = {"name": True, "seed": True, "output": True, "work": True, "models": {"__all__": {"shard"}}}
    settings = run.model_dump_json(exclude=places)
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


def card(run: RunFile, recipe: Recipe, table: Mapping[str, Any]) -> dict[str, Any]:
    """What the student's model card says of the run."""
    teacher = table["facts"].get("teacher", {})
    return {
        "teacher": teacher.get("spec", "none"),
        "teacher_sha256": teacher.get("weights_sha256", ""),
        "license": teacher.get("licence"),
        "data": {name: s.path for name, s in run.data.items()},
        "objective": f"{run.recipe} {dict(run.args)}",
        "asked": describe(recipe.asked) if recipe.asked else "as the data is",
        "seed": run.seed,
        "recipe_hash": table["recipe_hash"],
        "versions": table["versions"],
    }


def read_json(file: Path) -> dict[str, Any]:
    """A file that the run wrote.

    Raises:
        StoreError: It is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(
            f"file {file}",
            got=f"damaged JSON ({error})",
            expected="the file as the run wrote it",
            remedy="Delete it: what it says is worked out again from what is there.",
        ) from None


def same_run(old: str, new: str) -> bool:
    """Whether two resolved RunFiles are one run: a model's server may stand elsewhere than before."""
    return old == new or _unplaced(old) == _unplaced(new)


def first_difference(old: str, new: str) -> str:
    """A line that stands in one text and not in the other."""
    texts = ([x for x in text.splitlines() if x.partition(" = ")[0] not in (*PLACES, "shard")] for text in (old, new))
    before, after = texts
    gone = [line for line in before if line.strip() and line not in after]
    come = [line for line in after if line.strip() and line not in before]
    return f"{(gone or ['nothing'])[0]!r} there, {(come or ['nothing'])[0]!r} now"


def _unplaced(text: str) -> dict[str, Any]:
    table = tomllib.loads(text)
    table.pop("work", None)
    for model in table.get("models", {}).values():
        model.pop("shard", None)  # who holds which part of the weights changes nothing
        for name in PLACES:
            model.get("server", {}).pop(name, None)
    return table
