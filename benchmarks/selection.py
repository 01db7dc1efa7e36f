"""What token selection saves: heads and loss of `tip` at a fifth of the positions, its scoring pass included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tutelage.core.batch import Batch, Units
from tutelage.core.recipe import Train
from tutelage.core.schedule import Progress
from tutelage.core.scores import Head, Lazy
from tutelage.core.workspace import Workspace
from tutelage.recipes.opd import opd
from tutelage.recipes.tip import tip
from tutelage.training.step import Plan, run_update

from .common import Result, fresh, seconds
from .head import Inputs, Says

SHAPE, QUICK = (1024, 576, 49_152), (64, 32, 2048)
ARMS: dict[str, dict[str, Any] | None] = {
    "every position, no scoring": None,
    "a fifth, by entropy or divergence": {"share": 0.2, "by": "either"},
    "a fifth, by entropy": {"share": 0.2, "by": "entropy"},
}


def work_of(inputs: Inputs, settings: dict[str, Any] | None) -> Callable[[], None]:
    """One update of ``tip``, or of ``opd`` for None, over fixed hidden states."""
    stage = (opd() if settings is None else tip(rollouts=1, **settings)).stages[0]
    assert isinstance(stage, Train)
    voices = {
        "student": Says("student", Lazy(inputs.hidden, Head(inputs.weight))),
        "teacher": Says("teacher", Lazy(inputs.teacher_hidden, Head(inputs.teacher_weight))),
    }
    plan, count = Plan.of(stage.updates[0], voices), len(inputs.hidden)
    batch = Batch((), {"tokens": Units(torch.zeros(count, dtype=torch.long), torch.arange(count))}, {})

    def work() -> None:
        run_update(
            plan, [batch], Workspace(Path(".")), Progress(), backward=lambda value: value.backward(),
            reduce=lambda t: t, inside=lambda function: function(),
        )  # fmt: skip
        inputs.hidden.grad = inputs.weight.grad = None

    return work


def arm(shape: tuple[int, int, int], device: str, repeats: int, settings: dict[str, Any] | None) -> dict[str, float]:
    """The median time of an arm."""
    return {"seconds": seconds(work_of(Inputs.seeded(*shape, device=device), settings), device, repeats=repeats)}


def run(device: str, quick: bool) -> Result:
    """The table."""
    how = {"shape": QUICK if quick else SHAPE, "device": device, "repeats": 1 if quick else 5}
    taken = {n: fresh("benchmarks.selection:arm", settings=s, **how)["seconds"] for n, s in ARMS.items()}
    whole = taken["every position, no scoring"]
    return Result(
        "selection",
        "Heads and loss of reverse KL with gradients, float32; median of 5 after 1. Scoring needs the logits of every "
        "position: of both models by divergence, of the student by entropy.",
        {"P": SHAPE[0], "D": SHAPE[1], "V": SHAPE[2], "seed": 0},
        ("positions", "seconds", "of the whole"),
        tuple((name, found, found / whole) for name, found in taken.items()),
    )
