"""The numeric promises that a distillation loss makes, asked of us and of the peers by the same code."""

from __future__ import annotations

from .. import peers
from ..common import Result
from .adapters import NAMES

COLUMNS = ("check", "pains", "framework", "status", "figure", "bound", "the figure is", "what was seen")


def run(device: str, quick: bool) -> Result:
    """The table: every check of every framework, each framework in a process of its own."""
    rows, behind = [], {}
    for name in NAMES:
        said = peers.fresh("benchmarks.conformance.suite:measure", name=name, only="formula" if quick else "")
        rows += [tuple(row) for row in said["rows"]]
        behind[name] = {"loss": said["loss"], "step": said["step"]}
    order = {check: place for place, check in enumerate(dict.fromkeys(row[0] for row in rows))}
    return Result(
        "conformance",
        "A check passes if its figure is at most its bound. Inputs are float32 unless the check says otherwise, and "
        "everything is compared with float64.",
        {"versions": peers.versions(), "asked": behind},
        COLUMNS,
        tuple(sorted(rows, key=lambda row: order[row[0]])),
    )
