"""Pages of the bench of methods and of the run of all systems, written from their results when the site is built.

Run by mkdocs-gen-files after `results.py`. Every sentence about a recipe is made from its figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mkdocs_gen_files
from mkdocs_gen_files.editor import FilesEditor

ROOT = Path(__file__).parent.parent
METHODS = ROOT / "benchmarks" / "results" / "methods-cpu.json"
SYSTEMS = ROOT / "docs" / "measured" / "systems.json"
EQUAL_UPDATES = """Every recipe has the same number of optimiser steps of the student, each over the same number of
rows; stages of a recipe share them."""
EQUAL_COMPUTE = """Every recipe has the FLOPs that `forward_kl` takes for its updates: what models read is counted at
their bodies, two FLOPs a weight and position and six where a gradient is formed. Writing, scoring and training count
alike. A recipe takes at most four times the updates."""
ARMS = {"updates": ("Equal student updates", EQUAL_UPDATES), "compute": ("Equal compute", EQUAL_COMPUTE)}
TASK = """Written by `python -m benchmarks.methods`, which goes on where it was stopped. The task is arithmetic (chains
of sums, with the partial sums written out) and logic (syllogisms, with their formulas) of reasoning-gym, with its exact
verifiers. A small Llama is trained on the data once and is the teacher; a student of each seed is trained on a few
rows, and every arm starts from it. {seeds}, {device}."""
FIGURES = """{caption} Forward and reverse KL are to the teacher on the data's answers, the own reverse KL on what the
student writes; nats a token. pass@k is the unbiased estimate from samples at temperature 1."""
DUELS = """Who beats whom in accuracy, paired by seed and by test problem: `+` and `-` where the 95 % interval of the
difference leaves out 0. The last columns count all recipes that it beats and loses to; of so many comparisons, about
one in forty would look like a win by chance, and as many like a loss."""
CLAIMS = """A small task and small models: a claim that did not appear here may hold at its own scale. A claim appeared
if the 95 % interval of the difference leaves out 0; one of equality, if it leaves out a loss of 0.02."""
REAL = """Every recipe from the command line, a process each, on SmolLM2-135M-Instruct and its cut of 15 of 30 layers
(self-distillation: the whole model; across tokenizers: Gemma 3 270M as the teacher), a few steps on the same two
problems. `make systems` runs what is missing or has changed; `tools/systems.toml` says what single recipes need.

The losses are the first and the last of each stage. Where a stage trains on answers that are written anew, and for
policy gradients, whose loss has no meaning of its own, the divergences on the same rows before and after tell whether
the student moved towards the teacher. Seconds and memory are of the whole process."""
BASELINES = ("supervised", "seqkd", "forward_kl", "reverse_kl", "gkd")
SHOWN = ("accuracy", "95 %", "pass@1", "pass@8", "forward KL", "reverse KL", "own reverse KL", "ECE", "length")
COSTS = ("steps", "tokens written", "teacher positions", "GFLOPs", "seconds", "processor seconds")
MARKS = {1: "+", -1: "-", 0: "="}

Kept = dict[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(head), *([shown(c) for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in line) + " |" for line in lines)


def shown(cell: Any) -> str:
    """A cell as text."""
    if isinstance(cell, float):
        return f"{cell:.3f}" if abs(cell) < 100 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def named(recipe: str) -> str:
    """A link to a recipe's page."""
    return f"[{recipe}](../recipes/{recipe}.md)"


def write(path: str, *blocks: str) -> None:
    """A page of blocks with a blank line between them."""
    with mkdocs_gen_files.open(path, "w") as page:
        page.write("\n\n".join(b for b in blocks if b) + "\n")


# -- methods ----------------------------------------------------------------------------------------------------------
def methods(result: Kept) -> None:
    """The page of the bench."""
    facts = result["settings"]
    seeds = f"{facts['seeds']} seed{'s' * (facts['seeds'] > 1)}"
    blocks = [
        "# All recipes on one task",
        TASK.format(seeds=seeds, device=result["device"]),
        _models(facts),
        FIGURES.format(caption=result["caption"]),
    ]
    for arm, (title, text) in ARMS.items():
        rows = [r for r in (dict(zip(result["columns"], row)) for row in result["rows"]) if r["arm"] == arm]
        if rows:
            start = facts["references"].get("start", {}).get("accuracy", {}).get("mean")
            told = "" if start is None else _against_the_start(rows, start)
            blocks += [f"## {title}", text, told, _arm(rows, facts["duels"][arm])]
    blocks += [*_claims(facts), *_speed(facts), *_absent(facts), _where(result)]
    write("benchmarks/methods.md", *blocks)


def _models(facts: Kept) -> str:
    shapes = facts["models"]
    told = {"teacher": "The teacher", "start": "The student before any arm"}
    some = [
        f"{told[who]} ({shape['layers']} blocks of width {shape['width']}) answers "
        f"{facts['references'][who]['accuracy']['mean']:.1%} of the test problems."
        for who, shape in (("teacher", shapes["teacher"]), ("start", shapes["student"]))
        if who in facts["references"]
    ]
    sizes = facts["sizes"]
    some.append(
        f"Each arm begins with a fresh optimiser and takes {sizes['updates']} updates of {sizes['rows']} rows, at a "
        f"peak rate of {sizes['learning_rate']:g} for every recipe."
    )
    return " ".join(some)


def _against_the_start(rows: Sequence[Kept], start: float) -> str:
    """How many recipes end above where they began: one rate for all is kinder to some."""
    above = [r["recipe"] for r in rows if r["accuracy low"] > start]
    below = [r["recipe"] for r in rows if r["accuracy high"] < start]
    told = f"{len(above)} of {len(rows)} recipes end above the accuracy that they start from ({start:.3f}), and "
    told += f"{len(below)} below it, by the interval."
    if len(below) > len(above):
        told += (
            " A student that had finished its own training loses some of it when a fresh optimiser starts at this "
            "rate, and so few updates do not win it back (see the curves below). A rate that suits a cross-entropy "
            "does not suit every policy gradient. Read the table as one budget and one rate for all, not as what each "
            "could reach at its own."
        )
    return told


def _arm(rows: Sequence[Kept], duels: Kept) -> str:
    figures = []
    for r in rows:
        interval = f"{r['accuracy low']:.3f} to {r['accuracy high']:.3f}"
        cells = (interval if c == "95 %" else r[c] for c in (*SHOWN, *COSTS))
        figures.append([named(r["recipe"]), *cells])
    names = duels["recipes"]
    baselines = [b for b in BASELINES if b in names]
    beaten, lost = duels["beats"], duels["loses to"]
    signs = {a: {b: MARKS[(b in beaten[a]) - (b in lost[a])] for b in baselines if b != a} for a in names}
    against = [[named(a), *(signs[a].get(b, "") for b in baselines), len(beaten[a]), len(lost[a])] for a in names]
    return "\n\n".join((
        table(["recipe", *SHOWN, *COSTS], figures),
        DUELS,
        table(["recipe", *baselines, "beats", "loses to"], against),
    ))  # fmt: skip


def _claims(facts: Kept) -> list[str]:
    """Published claims by what came of them."""
    if not facts["claims"]:
        return []
    blocks = [
        "## What papers claim, and what appeared here",
        CLAIMS,
    ]
    for arm, (title, _) in ARMS.items():
        some = [c for c in facts["claims"] if c["arm"] == arm]
        if some:
            count = sum(c["verdict"] == "appeared" for c in some)
            contrary = sum(c["verdict"] == "the contrary appeared" for c in some)
            rows = [[c["claim"], c["source"], c["verdict"], c["better by"]] for c in some]
            blocks += [
                f"**{title}**: {count} of {len(some)} claims appeared, and the contrary of {contrary}.",
                table(["claim", "source", "what came out", "better by (95 %)"], rows),
            ]
    return blocks


def _speed(facts: Kept) -> list[str]:
    """How soon on-policy recipes reach the best off-policy accuracy."""
    speed = facts["speed"]
    if not speed:
        return []
    curves: Mapping[str, Kept] = speed["curves"]
    told = []
    for name in speed["on-policy"]:
        reached = curves[name]["reached"]
        held = reached is not None and float(reached) <= speed["wanted"]
        when = f"after {float(reached):.0%} of the updates" if reached is not None else "not within the updates"
        by_seed = sum(s is not None and float(s) <= speed["wanted"] for s in curves[name]["by seed"])
        told.append(
            f"`{name}` reaches it {when}, {'within' if held else 'not within'} a fifth; on {by_seed} of "
            f"{len(curves[name]['by seed'])} seeds within a fifth."
        )
    shares = sorted({float(s) for c in curves.values() for s in c["curve"]})
    rows = [[named(n), *(_at(c["curve"], s) for s in shares)] for n, c in curves.items()]
    return [
        "## Accuracy against updates",
        f"The best accuracy of a recipe that never trains on the student's own answers is {speed['accuracy']:.3f} "
        f"(`{speed['best']}`). Each point is a run of its own with its whole schedule.",
        " ".join(told),
        table(["recipe", *(f"{s:.0%} of the updates" for s in shares)], rows),
    ]


def _at(curve: Kept, share: float) -> Any:
    return next((value for s, value in curve.items() if float(s) == share), "")


def _absent(facts: Kept) -> list[str]:
    refused = [f"- `{name}`: {why}." for name, why in facts["refused"].items()]
    missing = [f"- `{name}`: {'; '.join(arms)}." for name, arms in facts["missing"].items()]
    return [
        *(["## Not on this task", "\n".join(refused)] if refused else []),
        *(["## Not measured yet", "\n".join(missing)] if missing else []),
    ]


def _where(result: Kept) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"{result['device']}, one thread a run; {versions}."


# -- systems ----------------------------------------------------------------------------------------------------------
def systems(found: Kept) -> None:
    """The page of the real runs."""
    rows = []
    for name, r in found.items():
        losses = "; ".join(f"{stage} {a:.3f} to {b:.3f}" for stage, (a, b) in r["loss"].items())
        pairs = (r["on the rows"].get(f) for f in ("kl", "reverse_kl"))
        moved = [f"{pair[0]:.3f} to {pair[1]:.3f}" if pair else "" for pair in pairs]
        rows.append([named(name), r["steps"], losses, *moved, r["fell"], r["seconds"], r["peak MB"]])
    write(
        "benchmarks/systems.md",
        "# All systems on a real pair",
        REAL,
        table(["recipe", "steps", "loss", "forward KL", "reverse KL", "what fell", "seconds", "peak MB"], rows),
    )


def main() -> None:
    """Write the pages whose results are there and append them to the navigation."""
    pages = []
    for title, name, file, page in (("All recipes on one task", "methods", METHODS, methods),
                                    ("All systems on a real pair", "systems", SYSTEMS, systems)):  # fmt: skip
        if file.is_file():
            page(json.loads(file.read_text(encoding="utf-8")))
            pages.append({title: f"benchmarks/{name}.md"})
    nav = FilesEditor.current().config["nav"]
    next(item["Measured"] for item in nav if "Measured" in item).extend(pages)


main()
