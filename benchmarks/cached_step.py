"""A training step of the real pair with a warm teacher cache, beside none and a live teacher."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from tutelage.core.batch import Batch
from tutelage.core.recipe import Train
from tutelage.core.schedule import Progress
from tutelage.core.term import Update
from tutelage.core.workspace import Workspace
from tutelage.data.cached import Cache, Drawn, Form, States, Top
from tutelage.data.cached.answer import answer
from tutelage.data.collate import Collate
from tutelage.models.causal import Causal
from tutelage.recipes.forward_kl import forward_kl
from tutelage.recipes.supervised import supervised
from tutelage.running.caching import through
from tutelage.training import optim
from tutelage.training.settings import TrainSettings
from tutelage.training.step import Plan, run_update
from tutelage.voices.says import Says

from .common import Result, fresh, settle
from .pair import about, pair

ROWS, LENGTH, REPEATS = 4, 190, 5


def arm(device: str, rows: int, repeats: int) -> dict[str, Any]:
    """All arms in one process, step about, so that what slows the machine slows each of them."""
    teacher, student = pair(device)
    batch = Collate(teacher.tokenizer, 512, pack=True)(about(rows, LENGTH, teacher)).to(torch.device(device))
    teacher.model.requires_grad_(False)
    student.model.requires_grad_(True).train()
    optimizer = optim.adamw([("student", student.model)], TrainSettings.model_validate({}))
    kl, labels = _update(forward_kl()), _update(supervised())
    size = teacher.head.num_categories
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        forms = {"50 draws": Drawn(50, size), "top 50, rest even": Top(50, size), "states": States(576, size)}
        caches = {name: _warm(Path(folder) / name, form, teacher, batch) for name, form in forms.items()}
        for _ in range(1 + repeats):
            taken.setdefault("no teacher", []).append(_step(labels, teacher, student, batch, optimizer, None))
            for name, cache in caches.items():
                taken.setdefault(name, []).append(_step(kl, teacher, student, batch, optimizer, cache))
            taken.setdefault("live teacher", []).append(_step(kl, teacher, student, batch, optimizer, None))
        reads = {name: _reading(cache, batch) for name, cache in caches.items()}
    middle = {name: statistics.median(times[1:]) for name, times in taken.items()}
    pairs = {n: [a / b for a, b in zip(t[1:], taken["no teacher"][1:], strict=True)] for n, t in taken.items()}
    return {
        "seconds": middle,
        "ratio": {name: statistics.median(ratios) for name, ratios in pairs.items()},
        "read": reads,
        "positions": len(batch.units["tokens"]),
    }


def _update(recipe: Any) -> Update:
    (stage,) = recipe.stages
    assert isinstance(stage, Train)
    return stage.updates[0]


def _warm(folder: Path, form: Form, teacher: Causal, batch: Batch) -> Cache:
    """A cache that holds what the batch asks."""
    cache = Cache(folder, {"weights": "w", "tokenizer": "t"}, form)
    with torch.no_grad():
        answer(cache, batch.views["main"], lambda view: teacher.predict(view, frozenset({"next"}))["next"])  # type: ignore[arg-type, return-value]
    return Cache(folder, cache.key, form)


def _step(update: Update, teacher: Causal, student: Causal, batch: Batch, optimizer: Any, cache: Cache | None) -> float:
    """Seconds of one step as the loop takes it."""
    workspace = Workspace(Path("."))
    workspace.models.update(teacher=teacher, student=student)
    workspace.caches.update({} if cache is None else {"teacher": cache})
    voices = through({slot: Says(slot) for slot in workspace.models}, workspace.caches)
    settle(str(student.device))
    start = perf_counter()
    run_update(
        Plan.of(update, voices), [batch], workspace, Progress(),
        backward=lambda value: value.backward(), reduce=lambda t: t, inside=lambda f: f(),
    )  # fmt: skip
    torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    settle(str(student.device))
    return perf_counter() - start


def _reading(cache: Cache, batch: Batch) -> float:
    """Seconds to look up and decode the batch."""
    start = perf_counter()
    for _ in range(5):
        answer(cache, batch.views["main"], None)
    return (perf_counter() - start) / 5


def run(device: str, quick: bool) -> Result:
    """The table."""
    got = fresh("benchmarks.cached_step:arm", device=device, rows=2 if quick else ROWS, repeats=1 if quick else REPEATS)
    rows = tuple(
        (name, got["seconds"][name], got["ratio"][name], got["read"].get(name, "none")) for name in got["seconds"]
    )
    return Result(
        "cached_step",
        f"float32, {got['positions']} trained positions, {ROWS} packed rows, AdamW. Forward KL by its recipe's update; "
        "without a teacher, cross-entropy with the data by the update of supervised. "
        f"Median of {REPEATS} after 1, arms in turn; ratios are medians of those taken in the same turn. "
        "Reading: look-up and decoding of the batch, within the step's seconds.",
        {"teacher": "SmolLM2-135M-Instruct", "student": "15 of 30 layers", "rows": ROWS, "tokens a row": LENGTH},
        ("teacher", "seconds a step", "ratio to no teacher", "of which reading, s"),
        rows,
    )
