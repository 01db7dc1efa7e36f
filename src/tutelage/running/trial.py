"""A trial of a run in a temporary folder: its models, a few steps of each stage, one batch measured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from ..core.needs import stages
from ..core.recipe import Change, Generate, Recipe, Train
from ..core.record import Record
from ..core.workspace import Workspace
from ..data.collate import Collate, split
from ..data.pipeline import run_steps
from ..evaluation.evaluate import evaluate
from ..models.sample import Sampling
from ..training.distributed import Processes
from ..training.log import Metrics, Silent
from ..training.loop import Loop
from ..voices.says import Says
from . import assemble, caching
from .bits import comparable
from .grids import Grid, Noting, drawn
from .peak import forget, highest
from .runfile import RunFile
from .runner import GENERATE_BATCH

STEPS = 3


@dataclass(frozen=True)
class Timed:
    """A piece of a run, with the time it will take as a whole.

    Args:
        name: The stage.
        does: What it does.
        steps: Batches.
        tokens: Written, if any.
        seconds: Of all of it.
    """

    name: str
    does: str
    steps: int
    tokens: int | None
    seconds: float


@dataclass
class Stepped:
    """The first steps of a Train stage.

    Args:
        name: The stage.
        seconds: Of each step.
        tokens: That each step read.
        grids: Each step's micro-batches.
        ahead: Those of the run's steps, as far as they can be known; empty if models decide.
        saving: Seconds that a checkpoint took.
        peak: The most bytes that the process held meanwhile; None where the system does not tell.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    grids: list[list[Grid]] = field(default_factory=list)
    ahead: list[list[Grid]] = field(default_factory=list)
    saving: float = 0.0
    peak: int | None = None


@dataclass
class Trial:
    """What was tried.

    Args:
        parts: By stage, in the run's order.
        configs: The models' configurations as they turned out.
    """

    parts: list[Timed | Stepped] = field(default_factory=list)
    configs: dict[str, Any] = field(default_factory=dict)


def trial(run: RunFile, recipe: Recipe, ws: Workspace, folder: Path, say: Callable[[str], None]) -> Trial:
    """Load the models, take a few steps of each stage and measure a batch; nothing is left but what is returned.

    A student that is cut out of another model is cut without its closed-form repair, which changes no time but its own.

    Raises:
        TutelageError: What ``run`` would raise for the same settings.
    """
    small, ws = _aside(run, folder), replace(ws, folder=folder)
    made = Trial()
    start = perf_counter()
    assemble.load_models(small, recipe, ws, folder, say)
    made.parts.append(Timed("load", "loads and cuts models", 1, None, perf_counter() - start))
    processes = Processes.start(run.settings("").precision)
    for stage in stages(recipe.stages):
        if isinstance(stage, Generate):
            made.parts.append(_write(stage, ws))
        elif isinstance(stage, Change):
            ws.models[stage.into] = copy.deepcopy(stage.by(ws))
        elif isinstance(stage, Train):
            made.parts.append(_train(small, stage, ws, folder, processes))
    made.parts += _measure(run, recipe, ws)
    made.configs = {slot: m.config for slot, m in ws.models.items() if hasattr(m, "layers")}
    return made


def _aside(run: RunFile, folder: Path) -> RunFile:
    """The run with the trial's folder, cuts without repair, and caches of its own where there are none yet."""
    models = {}
    for slot, model in run.models.items():
        changes: dict[str, Any] = {}
        if model.shrink:
            changes["shrink"] = model.shrink.model_copy(update={"refit": False})
        if model.cache and not Path(model.cache.folder).exists():
            changes["cache"] = model.cache.model_copy(update={"folder": str(folder / f"cache of {slot}")})
        models[slot] = model.model_copy(update=changes)
    return run.model_copy(update={"models": models, "output": str(folder)})


def _write(stage: Generate, ws: Workspace) -> Timed:
    prompts: Sequence[Record] = ws.data[stage.over]
    some = prompts[: min(len(prompts), GENERATE_BATCH)]
    start = perf_counter()
    rows = list(run_steps(stage.steps, some, ws.within("plan", stage.name)))
    seconds = perf_counter() - start
    share = len(prompts) / len(some)
    tokens = sum(len(p.ids or ()) for r in rows for p in r.trained())
    # later stages are tried on what was written here
    ws.data[stage.into] = assemble.read_again(rows, ws)
    batches = -(-len(prompts) // GENERATE_BATCH)
    return Timed(stage.name, "writes answers", batches, int(tokens * share), seconds * share)


def _train(run: RunFile, stage: Train, ws: Workspace, folder: Path, processes: Processes) -> Stepped:
    settings = run.settings(stage.name)
    changes = {"checkpoint_seconds": 1e9, "watch_every": 0, "keep_best": False, "log": ()}
    few = settings.model_copy(update={"steps": min(STEPS, settings.steps), **changes})
    assemble.build_parts(stage, ws)
    collate = assemble.collate_for(stage, settings, ws)
    noting, made = Noting(collate), Stepped(stage.name)
    voices = caching.through({slot: Says(slot) for slot in ws.models} | dict(stage.voices), ws.caches)
    metrics = Metrics(folder / "log.jsonl", processes)
    loop = Loop(
        stage, few, ws, processes, noting, split, voices, folder / stage.name, metrics, _Steps(made, noting)
    )  # fmt: skip
    looking, start = forget(), perf_counter()
    loop.run()
    made.saving = perf_counter() - start - sum(made.seconds)
    made.peak = highest() if looking else None
    made.ahead = drawn(stage, settings, ws, collate)
    return made


def _measure(run: RunFile, recipe: Recipe, ws: Workspace) -> list[Timed]:
    """Measuring before and after: a batch's time for each batch, and the answers that are shown."""
    held = ws.data.get(run.evaluate.data)
    if not held or not {"teacher", "student"} <= set(ws.models):
        return []
    if not comparable(ws.models["teacher"], ws.models["student"]):
        return []
    settings, tokenizer = run.evaluate, assemble.tokenizer_of(ws)
    some = held[: settings.batch_size]
    everything = settings.trains != "answer" and not recipe.asked
    whole = tokenizer if settings.trains == "whole" else None
    rows = [assemble.prompts_too(r, whole) for r in some] if everything else some
    collate = Collate(tokenizer, max(run.settings("").max_length, 1024))
    sampling = Sampling(max_tokens=settings.max_tokens, temperature=0.0)
    start = perf_counter()
    found = evaluate({"student": ws.models["student"]}, ws.models["teacher"], rows, collate,
                     batch_size=settings.batch_size, num_samples=settings.num_samples, sampling=sampling,
                     asked=recipe.asked)  # fmt: skip
    all_seconds = perf_counter() - start
    written = sum(account["seconds"] for name, account in found["ledger"].items() if "sample" in str(name))
    # the answers are the same few however many records are measured
    seconds = 2 * (written + (all_seconds - written) * len(held) / len(some))
    return [Timed("measure", "before and after", 2, None, seconds)]


class _Steps(Silent):
    """Notes each step, and which grids were its own."""

    def __init__(self, made: Stepped, noting: Noting) -> None:
        self.made, self.noting, self.done = made, noting, 0

    def step(self, metrics: Any) -> None:
        self.made.seconds.append(metrics["time"])
        self.made.tokens.append(metrics["tokens"])
        self.made.grids.append(self.noting.grids[self.done :])
        self.done = len(self.noting.grids)
