"""The plan: what a run will load, take and write, told before it does."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from ..core.needs import stages
from ..core.node import CHUNK_ELEMENTS
from ..core.recipe import Change, Generate, Recipe, Train
from ..core.record import Record
from ..core.workspace import Workspace
from ..data.collate import Collate, split
from ..data.pipeline import run_steps
from ..evaluation.evaluate import evaluate
from ..models.cost import Cost, cost
from ..models.load import configuration
from ..models.sample import Sampling
from ..training.distributed import Processes
from ..training.log import Metrics, Silent
from ..training.loop import Loop
from ..voices.says import Says
from . import assemble
from .bits import comparable
from .runfile import ModelSettings, RunFile
from .runner import GENERATE_BATCH
from .scale import Machines, Role, estimate

TIMED_STEPS = 3
LIBRARIES_BYTES = 750_000_000
"""Resident memory of the imported libraries, measured with torch 2.13 and transformers 5.23 on Linux."""


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Args:
        name: The stage.
        does: What it does.
        steps: Optimiser steps, or batches written.
        tokens: Tokens read or written, estimated.
        seconds: Time, estimated from timed steps; None if none were timed.
    """

    name: str
    does: str
    steps: int
    tokens: int | None = None
    seconds: float | None = None


@dataclass
class Plan:
    """What a run will take.

    Args:
        loads: What each slot loads.
        records: Rows of each data set.
        memory: Bytes by component at the peak of training.
        disk: Bytes by what is written.
        stages: Each stage.
        notes: What should be known before.
        machines: By Train stage, what a step takes on the GPUs that were asked about (``scale.Estimate``).
    """

    loads: dict[str, str] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    disk: dict[str, int] = field(default_factory=dict)
    stages: list[StagePlan] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form with totals."""
        total = {"memory": sum(self.memory.values()), "disk": sum(self.disk.values())}
        return {**asdict(self), "total": total}


def plan(run: RunFile, *, timed: bool = True, machines: Machines | None = None) -> Plan:
    """Check a run and estimate what it takes; what cannot work is refused before weights load.

    Args:
        run: The RunFile.
        timed: Also load the models and time a few steps of each stage, in a temporary folder. A student that is cut
            out of another model is cut without its closed-form repair, which changes no time but its own.
        machines: GPUs to work out a step on, on paper.

    Raises:
        TutelageError: What ``run`` would raise for the same settings.
    """
    recipe = assemble.recipe_of(run)
    made = Plan()
    ws = Workspace(run.folder, run.seed)
    assemble.load_data(run, ws, made.notes.append)
    made.records = {name: len(rows) for name, rows in ws.data.items()}
    costs = {slot: cost(_config(run, slot)) for slot, model in run.models.items() if model.load or model.shrink}
    for slot, settings in run.models.items():
        made.loads[slot] = _source(settings)
    made.memory = _memory(run, recipe, costs)
    made.disk = _disk(run, recipe, costs)
    if machines is not None:
        made.machines = _on_machines(run, recipe, costs, machines)
    if timed:
        with tempfile.TemporaryDirectory(prefix="tutelage-plan-") as folder:
            made.stages = _timed(run, recipe, ws, Path(folder), made.notes.append)
    else:
        made.stages = [_untimed(run, s, ws) for s in stages(recipe.stages) if isinstance(s, (Generate, Train))]
    return made


def _on_machines(run: RunFile, recipe: Recipe, costs: dict[str, Cost], machines: Machines) -> dict[str, dict[str, Any]]:
    out = {}
    for stage in _trains(recipe):
        moves = {slot for update in stage.updates for slot in update.moves}
        roles = {
            slot: Role.of(_config(run, slot), run.models[slot].dtype, moves=slot in moves, split=run.models[slot].shard)
            for slot in costs
        }
        out[stage.name] = estimate(roles, run.settings(stage.name), machines).to_dict()
    return out


def _source(settings: ModelSettings) -> str:
    if settings.server:
        return f"{settings.server.model} at {settings.server.url}"
    if settings.cache and not settings.load and not settings.shrink:
        return f"the cache {settings.cache.folder}"
    return settings.load or f"{settings.shrink.layers or 'all'} blocks of {settings.shrink.source}"  # type: ignore[union-attr]


def _moving(recipe: Recipe) -> set[str]:
    return {slot for s in stages(recipe.stages) if isinstance(s, Train) for u in s.updates for slot in u.moves}


def _memory(run: RunFile, recipe: Recipe, costs: dict[str, Cost]) -> dict[str, int]:
    out = {"libraries": LIBRARIES_BYTES}
    for slot, model in costs.items():
        out[f"weights of {slot}"] = model.weight_bytes(run.models[slot].dtype)
    moving = [s for s in _moving(recipe) if s in costs]
    for slot in moving:
        weights = costs[slot].num_parameters * 4
        out[f"gradients of {slot}"] = weights
        out[f"optimiser of {slot}"] = 2 * weights
    vocabulary = max((_head_width(run, s) for s in costs), default=0)
    if vocabulary and moving:
        chunk = min(CHUNK_ELEMENTS, vocabulary * 2048) * 4
        head = max(_hidden(run, s) for s in moving) * vocabulary * 4
        out["loss buffers"] = 2 * chunk + head
    out["activations"] = max((_activations(run, s.name, slot) for s in _trains(recipe) for slot in moving), default=0)
    return out


def _activations(run: RunFile, stage: str, slot: str) -> int:
    """Tensors that a block keeps for its backward pass, over the rows of a micro-batch at their greatest length."""
    settings, config = run.settings(stage), _config(run, slot)
    tokens = (settings.micro_batch_size or settings.batch_size) * min(settings.max_length, 256)
    hidden, inner = config.hidden_size, config.intermediate_size
    # inputs of both norms and their normalised forms, queries to values with their rotated copies, attention's
    # output and the gate's, up's and product's rows
    a_block = 0 if settings.gradient_checkpointing else 8 * hidden + 4 * inner
    kept = config.num_hidden_layers * (a_block + hidden)
    return 4 * tokens * kept


def _disk(run: RunFile, recipe: Recipe, costs: dict[str, Cost]) -> dict[str, int]:
    out: dict[str, int] = {}
    for slot in _moving(recipe) & set(costs):
        weights = costs[slot].num_parameters * 4
        keep = max(run.settings(s.name).keep_last for s in _trains(recipe))
        # a checkpoint is weights and two moments; while it is written the one before it stands
        out["checkpoints, while training"] = out.get("checkpoints, while training", 0) + 3 * weights * (keep + 1)
        out["weights of each stage"] = out.get("weights of each stage", 0) + weights * len(_trains(recipe))
        out["student"] = weights
        out["start of the student"] = weights if run.models[slot].shrink else 0
    out["report"] = 6_000_000
    return out


def _trains(recipe: Recipe) -> list[Train]:
    return [s for s in stages(recipe.stages) if isinstance(s, Train)]


def _config(run: RunFile, slot: str) -> Any:
    settings = run.models[slot]
    source: ModelSettings = settings if settings.load else run.models[settings.shrink.source]  # type: ignore[union-attr]
    config = configuration(str(source.load), trust_remote_code=source.trust_remote_code)
    if settings.shrink and settings.shrink.layers is not None:
        layers = settings.shrink.layers
        config.num_hidden_layers = layers if isinstance(layers, int) else len(layers)
    return config


def _head_width(run: RunFile, slot: str) -> int:
    return int(_config(run, slot).vocab_size)


def _hidden(run: RunFile, slot: str) -> int:
    return int(_config(run, slot).hidden_size)


def _untimed(run: RunFile, stage: Generate | Train, ws: Workspace) -> StagePlan:
    if isinstance(stage, Generate):
        return StagePlan(stage.name, "writes answers", -(-len(ws.data[stage.over]) // GENERATE_BATCH))
    return StagePlan(stage.name, "trains", run.settings(stage.name).steps)


def _timed(run: RunFile, recipe: Recipe, ws: Workspace, folder: Path, say: Callable[[str], None]) -> list[StagePlan]:
    quick = {
        slot: m.model_copy(update={"shrink": m.shrink.model_copy(update={"refit": False})}) if m.shrink else m
        for slot, m in run.models.items()
    }
    trial = run.model_copy(update={"models": quick, "output": str(folder)})
    ws = replace(ws, folder=folder)
    assemble.load_models(trial, recipe, ws, folder, say)
    processes = Processes.start(run.settings("").precision)
    out = []
    for stage in stages(recipe.stages):
        if isinstance(stage, Generate):
            out.append(_time_writing(stage, ws))
        elif isinstance(stage, Change):
            ws.models[stage.into] = copy.deepcopy(stage.by(ws))
        elif isinstance(stage, Train):
            out.append(_time_training(trial, stage, ws, folder, processes))
    measured = _time_measuring(run, ws)
    return out + ([measured] if measured else [])


def _time_writing(stage: Generate, ws: Workspace) -> StagePlan:
    prompts: Sequence[Record] = ws.data[stage.over]
    some = prompts[: min(len(prompts), GENERATE_BATCH)]
    start = perf_counter()
    rows = list(run_steps(stage.steps, some, ws.within("plan", stage.name)))
    seconds = perf_counter() - start
    share = len(prompts) / len(some)
    written = sum(len(p.ids or ()) for r in rows for p in r.trained())
    # later stages are timed on what was written here
    ws.data[stage.into] = assemble.read_again(rows, ws)
    return StagePlan(
        stage.name, "writes answers", -(-len(prompts) // GENERATE_BATCH), int(written * share), seconds * share
    )


def _time_training(run: RunFile, stage: Train, ws: Workspace, folder: Path, processes: Processes) -> StagePlan:
    settings = run.settings(stage.name)
    few = settings.model_copy(
        update={"steps": TIMED_STEPS, "checkpoint_seconds": 1e9, "watch_every": 0, "keep_best": False, "log": ()}
    )
    assemble.build_parts(stage, ws)
    taken = _Rows()
    collate = assemble.collate_for(stage, settings, ws)
    voices = {slot: Says(slot) for slot in ws.models} | dict(stage.voices)
    Loop(
        stage,
        few,
        ws,
        processes,
        collate,
        split,
        voices,
        folder / stage.name,
        Metrics(folder / "log.jsonl", processes),
        taken,
    ).run()
    # the first step also pays for allocation and for choosing kernels
    later = taken.rows[1:] or taken.rows
    each = sum(r["time"] for r in later) / len(later)
    tokens = sum(r["tokens"] for r in taken.rows) / len(taken.rows)
    first = taken.rows[0]["time"]
    return StagePlan(
        stage.name, "trains", settings.steps, int(tokens * settings.steps), first + each * (settings.steps - 1)
    )


def _time_measuring(run: RunFile, ws: Workspace) -> StagePlan | None:
    held = ws.data.get(run.evaluate.data)
    if not held or not {"teacher", "student"} <= set(ws.models):
        return None
    if not comparable(ws.models["teacher"], ws.models["student"]):
        return None
    some = held[: run.evaluate.batch_size]
    start = perf_counter()
    evaluate({"student": ws.models["student"]}, ws.models["teacher"], some, Collate(assemble.tokenizer_of(ws), 1024),
             batch_size=run.evaluate.batch_size, num_samples=0, sampling=Sampling(temperature=0.0))  # fmt: skip
    seconds = (perf_counter() - start) * 2 * len(held) / len(some)
    return StagePlan("measure", "before and after, without samples", 2, None, seconds)


class _Rows(Silent):
    """Keeps the metrics of each step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def step(self, metrics: Any) -> None:
        self.rows.append(dict(metrics))
