"""One off-policy step of the real pair, 4 rows of about 190 tokens: ours beside one written with whole logits."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch.nn.functional import kl_div

from tutelage.core.batch import Batch
from tutelage.core.schedule import Progress
from tutelage.core.term import Term, Update
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.models.causal import Causal
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match
from tutelage.training import optim
from tutelage.training.settings import TrainSettings
from tutelage.training.step import Plan, run_update
from tutelage.voices.says import Says

from .common import Result, fresh, highest, settle, start_peak
from .pair import about, pair

ROWS, LENGTH, REPEATS = 4, 190, 3
PARTS: tuple[str, ...] = ("teacher body", "student body", "heads and loss", "backward", "optimiser")


class Watch:
    """Seconds by part of a step."""

    def __init__(self, device: str) -> None:
        self.device, self.parts = device, dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Charge the block to a part."""
        settle(self.device)
        start = perf_counter()
        yield
        settle(self.device)
        self.parts[part] += perf_counter() - start


def ours(teacher: Causal, student: Causal, batch: Batch, optimizer: Any, watch: Watch) -> float:
    """One step as the loop takes it."""
    update = Update((Term("kl", Match(kl_forward)),))
    workspace = Workspace(Path("."))
    workspace.models.update(teacher=teacher, student=student)
    plan = Plan.of(update, {slot: Says(slot) for slot in workspace.models})
    backward = _timed(watch, "backward", lambda value: value.backward())
    with watch.on("heads and loss"):
        said = run_update(
            plan, [batch], workspace, Progress(), backward=backward, reduce=lambda t: t, inside=lambda f: f()
        )
    for slot in ("teacher", "student"):
        taken = workspace.ledger.get(slot, "predict").seconds
        watch.parts[f"{slot} body"] += taken
        watch.parts["heads and loss"] -= taken
    watch.parts["heads and loss"] -= watch.parts["backward"]
    _move(student, optimizer, watch)
    return said.loss


def naive(teacher: Causal, student: Causal, batch: Batch, optimizer: Any, watch: Watch) -> float:
    """One step with whole logits of both models, each at every position of the grid."""
    view, units = batch.views["main"], batch.units["tokens"]
    with watch.on("teacher body"), torch.no_grad():
        states = teacher.hidden(view.inputs)
    with watch.on("student body"):
        own = student.hidden(view.inputs)
    with watch.on("heads and loss"):
        with torch.no_grad():
            log_p = (states @ teacher.head.weight.T).log_softmax(-1)
        log_q = (own @ student.head.weight.T).log_softmax(-1)
        value = kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1).flatten()[view.at].sum() / len(units)
    with watch.on("backward"):
        value.backward()
    _move(student, optimizer, watch)
    return float(value)


def arm(how: str, device: str, rows: int, repeats: int) -> dict[str, Any]:
    """An arm: median seconds by part, loss of the first step, positions and the peak."""
    teacher, student = pair(device)
    records = about(rows, LENGTH, teacher)
    batch = Collate(teacher.tokenizer, 512, pack=how == "ours")(records).to(torch.device(device))
    teacher.model.requires_grad_(False)
    student.model.requires_grad_(True).train()
    optimizer = optim.adamw([("student", student.model)], TrainSettings.model_validate({}))
    base = start_peak(device)
    watches: list[Watch] = []
    losses: list[float] = []
    step = ours if how == "ours" else naive
    for _ in range(1 + repeats):
        watches.append(Watch(device))
        losses.append(step(teacher, student, batch, optimizer, watches[-1]))
    parts = {p: statistics.median(w.parts[p] for w in watches[1:]) for p in PARTS}
    total = statistics.median(sum(w.parts.values()) for w in watches[1:])
    positions = len(batch.units["tokens"])
    return {
        "parts": parts,
        "seconds": total,
        "loss": losses[0],
        "positions": positions,
        "peak": highest(device) - base,
    }


def run(device: str, quick: bool) -> Result:
    """The table."""
    rows: list[tuple[Any, ...]] = []
    for how in ("ours", "whole logits"):
        got = fresh(
            "benchmarks.step:arm", how=how, device=device, rows=2 if quick else ROWS, repeats=1 if quick else REPEATS
        )
        speed = got["positions"] / got["seconds"]
        rows.append((how, got["seconds"], speed, *(got["parts"][p] for p in PARTS), got["peak"] / 1e6, got["loss"]))
    return Result(
        "step",
        f"Forward KL, float32, {got['positions']} trained positions, median of {1 if quick else REPEATS} after 1. "
        "Ours forms the gradient of the heads with the loss, so that 'backward' is the body's alone; it packs rows. "
        "Peak: memory added to models and batch.",
        {"teacher": "SmolLM2-135M-Instruct", "student": "15 of 30 layers", "rows": ROWS, "tokens a row": LENGTH},
        ("arm", "seconds", "positions/s", *(f"{p}, s" for p in PARTS), "peak MB", "loss"),
        tuple(rows),
    )


def _timed(watch: Watch, part: str, work: Callable[[Any], None]) -> Callable[[Any], None]:
    def timed(value: Any) -> None:
        with watch.on(part):
            work(value)

    return timed


def _move(student: Causal, optimizer: Any, watch: Watch) -> None:
    with watch.on("optimiser"):
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
