"""What the loss and a step may cost, in counts: `python -m benchmarks.budget --write` stores what they cost now."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from tutelage.data.live import Live
from tutelage.data.source import Corpus
from tutelage.data.steps.ask import Ask
from tutelage.signals.divergences import Jensen, kl_forward, kl_reverse, total_variation

from . import grown, retained
from .common import ROOT
from .counted import Counted, counted
from .head import Inputs

BUDGET = ROOT / "tests" / "performance" / "budget.json"
SHAPE = (512, 64, 4096)
# more may be other work of the same size, such as a step of the loop's bookkeeping
ROOM = {"operations": 0.05, "products": 0.0, "multiplied": 0.01, "moved": 0.05, "peak": 0.03, "retained": 0.0}
Counts = dict[str, int]


def _loss(compare: Callable[..., object]) -> Counts:
    inputs = Inputs.seeded(*SHAPE)

    def work() -> None:
        inputs.ours(compare).backward()
        inputs.hidden.grad = inputs.weight.grad = None

    return counted(work) | {"retained": retained.saved_bytes(lambda: inputs.ours(compare), inputs)}


def _off_policy() -> Counts:
    rows = [grown.row(i, 16 + 12 * i, 8) for i in range(8)]
    return _steps(rows, Corpus("train"))


def _on_policy() -> Counts:
    rows = [grown.row(i, 8 + i, 8 + i) for i in range(4)]
    return _steps(rows, Live(Ask("student", max_tokens=12, times=2), prompts="train"))


def _steps(rows: list[grown.Record], source: grown.Source) -> Counts:
    """Two steps of the training loop, micro-batches of 4 rows."""
    with Counted() as mode:
        grown.steps("cpu", rows, source, 2, 4)
    return mode.counts()


SCENES: dict[str, Callable[[], Counts]] = {
    "loss, forward KL": lambda: _loss(kl_forward),
    "loss, reverse KL": lambda: _loss(kl_reverse),
    "loss, Jensen": lambda: _loss(Jensen(0.5)),
    "loss, any function": lambda: _loss(total_variation),
    "two steps, off-policy": _off_policy,
    "two steps, on-policy": _on_policy,
}


def kept(path: Path = BUDGET) -> dict[str, Counts]:
    """The stored budget."""
    return json.loads(path.read_text(encoding="utf-8"))


def grew(scene: str, found: Counts, budget: Counts) -> list[str]:
    """One line for each count that is above its budget."""
    return [
        f"{scene}: {name} grew from {budget[name]:,} to {value:,} ({value / max(budget[name], 1) - 1:+.1%})"
        for name, value in found.items()
        if value > budget[name] * (1 + ROOM[name])
    ]


def main() -> int:
    """Print what everything costs beside its budget; with ``--write`` that becomes the budget."""
    parser = argparse.ArgumentParser("python -m benchmarks.budget", description="Counts of work and memory.")
    parser.add_argument("--write", action="store_true", help="what is counted now is the budget from now on")
    write = parser.parse_args().write
    found = {scene: count() for scene, count in SCENES.items()}
    before = kept() if BUDGET.is_file() else {}
    for scene, counts in found.items():
        old = before.get(scene, {})
        print(scene, *(f"{name} {value:,} ({old.get(name, 0):,})" for name, value in counts.items()), sep="\n  ")
    if write:
        BUDGET.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
