"""Pages of what was measured, written from `benchmarks/results/*.json` when the site is built.

Run by mkdocs-gen-files after `generate.py`. No figure stands here: what a benchmark writes appears by itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import mkdocs_gen_files
from mkdocs_gen_files.editor import FilesEditor

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
OWN_PAGE = ("conformance", "curves", "methods")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 320, 210, 56, 36, 14
TIME, MEMORY = "#00897b", "#d2691e"

Kept = dict[str, Any]


def kept() -> list[Kept]:
    """Every result, by name and device."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]


def write(path: str, *blocks: str) -> None:
    """A page of blocks with a blank line between them."""
    with mkdocs_gen_files.open(path, "w") as page:
        page.write("\n\n".join(b for b in blocks if b) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; cells are escaped, numbers short."""
    lines = [list(head), ["---"] * len(head), *([shown(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in line) + " |" for line in lines)


def shown(cell: Any) -> str:
    """A cell as text."""
    if isinstance(cell, bool) or cell is None:
        return {True: "yes", False: "no", None: ""}[cell]
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        few = f"{cell:.1e}" if abs(cell) < 1e-3 else f"{cell:.3g}"
        return "0" if cell == 0 else few if abs(cell) < 1e3 else f"{cell:,.0f}"
    return str(cell)


def where(result: Kept) -> str:
    """Where a result was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"{result['device']}, {result['threads']} threads of {result['cores']} cores; {versions}."


def settings(result: Kept) -> str:
    """What a result's settings were, one a line."""
    return "\n".join(f"- {name}: {_flat(value)}" for name, value in result["settings"].items())


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_flat, value))
    return shown(value)


# -- all tables -------------------------------------------------------------------------------------------------------
def index(results: Sequence[Kept]) -> None:
    """Every benchmark's table as it was measured."""
    blocks = [
        "# Benchmarks",
        "Each table is written by `python -m benchmarks NAME` and shown as it was measured, with the machine and the "
        "versions. Peers live in an environment of their own, which `python -m tools.peers_env` makes, and run beside "
        "us under one interpreter and one torch.",
    ]
    for result in results:
        if result["name"] not in OWN_PAGE:
            blocks += [
                f"## {result['name'].replace('_', ' ')}",
                result["caption"],
                table(result["columns"], result["rows"]),
                f"{where(result)}",
                settings(result),
            ]
    write("benchmarks/index.md", *blocks)


# -- conformance ------------------------------------------------------------------------------------------------------
def conformance(result: Kept) -> None:
    """Checks by framework, then each figure that failed, and what stands behind a column."""
    rows = [dict(zip(result["columns"], row, strict=True)) for row in result["rows"]]
    ran = {row["framework"] for row in rows if row["status"] in ("pass", "fail")}
    names = [name for name in result["settings"]["asked"] if name in ran]
    idle = [name for name in result["settings"]["asked"] if name not in ran]
    checks = list(dict.fromkeys(row["check"] for row in rows))
    found = {(row["check"], row["framework"]): row for row in rows}
    pains = {row["check"]: row["pains"] for row in rows}
    matrix = [[c, pains[c], *(_mark(found.get((c, name))) for name in names)] for c in checks]
    failed = [row for row in rows if row["status"] == "fail"]
    declined = [row for row in rows if row["status"] in ("by choice", "refused")]
    asked = [[name, said["loss"], said["step"]] for name, said in result["settings"]["asked"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in result["settings"]["versions"].items())
    absent = f" Nothing of {' and '.join(idle)} runs on this device." if idle else ""
    columns = ["check", "framework", "figure", "bound", "the figure is", "what was seen"]
    write(
        "benchmarks/conformance.md",
        "# Conformance",
        "The same checks are put to us and to others through a small adapter (`benchmarks/conformance`), on the same "
        "numbers, against formulas in float64. `python -m benchmarks conformance` runs them all. The first checks ask "
        "a loss; the last ones take one real training step of tiny models with the framework's own trainer and look at "
        "the gradient that reaches the optimiser. Numbers point at [pains](../explain/pains.md).",
        f"Measured with {versions}.{absent}",
        table(["check", "pains", *names], matrix),
        "*not offered*: nothing in its public interface does this. *by choice*: its documentation says that it does "
        "something else. *refused*: it ends with an error that says what is wrong. A trainer that follows another rule "
        "of which positions train fails for that once; its other checks are compared under its own rule.",
        "## What failed",
        table(columns, [[row[c] for c in columns] for row in failed]) if failed else "Nothing.",
        "## What was declined",
        table(["check", "framework", "status", "why"],
              [[r["check"], r["framework"], r["status"], r["what was seen"]] for r in declined]),
        "## What stands behind a column",
        table(["framework", "the loss", "the step"], asked),
        where(result),
    )  # fmt: skip


def _mark(row: Kept | None) -> str:
    status = row["status"] if row else ""
    return f"**{status}**" if status == "fail" else status


# -- curves -----------------------------------------------------------------------------------------------------------
def curves(result: Kept) -> None:
    """A plot of time and one of memory for each curve, its line, and what it should do."""
    blocks = [
        "# How cost grows",
        "Measured by `python -m benchmarks curves`. Dashed is the line `start + slope x` that fits best; *off* is how "
        "far the points are from it at most.",
        result["caption"],
    ]
    for name, fact in result["settings"]["curves"].items():
        points = [row[1:] for row in result["rows"] if row[0] == name]
        blocks += [
            f"## {name.capitalize()}",
            f"{fact['setting']}.",
            '<div style="display:flex;flex-wrap:wrap;gap:1rem">'
            + plot(f"seconds against {fact['of']}", [(x, y) for x, y, _ in points], fact["time"], TIME)
            + plot(f"MB against {fact['of']}", [(x, y) for x, _, y in points], fact["memory"], MEMORY)
            + "</div>",
            fact["law"],
            _told("Time", "s", fact["time"], fact["of"]) + " " + _told("Memory", "MB", fact["memory"], fact["of"]),
        ]
    write("benchmarks/curves.md", *blocks, where(result))


def _told(what: str, unit: str, line: Kept, of: str) -> str:
    knee = f", growth changes most at {shown(line['knee'])}" if line.get("knee") and line["off"] > 0.15 else ""
    return f"{what}: {line['start']:.3g} {unit} + {line['slope']:.3g} {unit} x {of}, off by {line['off']:.0%}{knee}."


def plot(title: str, points: Sequence[tuple[float, float]], line: Kept, colour: str) -> str:
    """Points, their line and two axes from 0, as one SVG."""
    most_x = max(x for x, _ in points)
    most_y = 1.1 * max(y for _, y in points) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        wide, high = WIDTH - LEFT - 12, HEIGHT - BOTTOM - TOP
        return LEFT + wide * x / most_x, TOP + high * (1 - min(max(y, 0), most_y) / most_y)

    def path(some: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in some))

    ends = [(x, line["start"] + line["slope"] * x) for x in (min(x for x, _ in points), most_x)]
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" style="max-width:100%">',
        f"<title>{escape(title)}</title>",
        f'<polyline points="{path([(0, most_y), (0, 0), (most_x, 0)])}" fill="none" stroke="currentColor"/>',
        f'<polyline points="{path(ends)}" fill="none" stroke="{colour}" stroke-dasharray="4 4" opacity="0.6"/>',
        f'<polyline points="{path(points)}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in (place(*p) for p in points)),
        *(_text(*place(0, y), shown(float(y)), "end", -6, 4) for y in (most_y / 2, most_y)),
        _text(*place(most_x / 2, 0), shown(most_x / 2), "middle", 0, 16),
        _text(*place(most_x, 0), shown(most_x), "end", 6, 16),
        _text(LEFT + (WIDTH - LEFT) / 2, HEIGHT - 4, escape(title), "middle"),
        "</svg>",
    ]
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str, right: float = 0, down: float = 0) -> str:
    at = f'x="{x + right:.1f}" y="{y + down:.1f}"'
    return f'<text {at} text-anchor="{anchor}" font-size="11" fill="currentColor">{text}</text>'


def main() -> None:
    """Write the pages and append them to the navigation."""
    results = kept()
    index(results)
    pages = [{"Benchmarks": "benchmarks/index.md"}]
    for title, name, page in (("Conformance", "conformance", conformance), ("How cost grows", "curves", curves)):
        found = [result for result in results if result["name"] == name]
        if found:
            page(found[0])
            pages.append({title: f"benchmarks/{name}.md"})
    nav = FilesEditor.current().config["nav"]
    place = next((i for i, item in enumerate(nav) if "Recipes" in item), len(nav))
    nav.insert(place, {"Measured": pages})


main()
