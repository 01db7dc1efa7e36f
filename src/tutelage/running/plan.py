"""The plan: what a run will load, take and write, told before it does."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..core.needs import stages
from ..core.recipe import Generate, Recipe, Train
from ..core.workspace import Workspace
from ..data.collate import Collate
from ..models.load import configuration, load_tokenizer
from ..models.shadow import Shadow
from . import assemble, caching, peak
from .grids import Grid, drawn, longest, supposed, written
from .peak import Writing
from .runfile import ModelSettings, RunFile
from .runner import GENERATE_BATCH
from .scale import Machines, Role, estimate
from .trial import Stepped, Timed, Trial, trial


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Args:
        name: The stage.
        does: What it does.
        steps: Optimiser steps, or batches written.
        tokens: Tokens read or written, estimated.
        seconds: Time, estimated from timed steps; None if none were timed.
        step_seconds: Of a later step.
    """

    name: str
    does: str
    steps: int
    tokens: int | None = None
    seconds: float | None = None
    step_seconds: float | None = None


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
        timed: Also load the models and time a few steps of each stage, in a temporary folder (``trial``).
        machines: GPUs to work out a step on, on paper.

    Raises:
        TutelageError: What ``run`` would raise for the same settings.
    """
    libraries = max(peak.resident() or 0, peak.LIBRARIES_BYTES)
    recipe, made = assemble.recipe_of(run), Plan()
    ws = Workspace(run.folder, run.seed)
    assemble.load_data(run, ws, made.notes.append)
    made.records = {name: len(rows) for name, rows in ws.data.items()}
    made.loads = {slot: _source(settings) for slot, settings in run.models.items()}
    configs = {slot: _config(run, slot) for slot, model in run.models.items() if model.load or model.shrink}
    if machines is not None:
        made.machines = _on_machines(run, recipe, configs, machines)
    student = configs.get("student")
    made.notes += assemble.doubted(run, recipe, student and student.get_text_config(decoder=True).vocab_size)
    tried = Trial()
    if timed:
        with tempfile.TemporaryDirectory(prefix="tutelage-plan-") as folder:
            tried = trial(run, recipe, ws, Path(folder), made.notes.append)
        ws.models.clear()
        gc.collect()
    told = _Told(run, recipe, ws, configs | {s: c for s, c in tried.configs.items() if s in configs}, tried)
    made.memory = {"libraries": libraries} | told.memory(libraries)
    made.disk = told.disk()
    made.stages = list(told.stages())
    return made


@dataclass
class _Told:
    """What follows from settings, data, configurations and a trial.

    Args:
        run: The RunFile.
        recipe: Its recipe.
        ws: Its data.
        configs: Of the models that are loaded or cut.
        trial: What was tried; empty if nothing was.
    """

    run: RunFile
    recipe: Recipe
    ws: Workspace
    configs: Mapping[str, Any]
    trial: Trial

    def __post_init__(self) -> None:
        moving = {slot for s in self._trains() for u in s.updates for slot in u.moves}
        self.shadows = {slot: _shadow(self.run, slot, config, slot in moving) for slot, config in self.configs.items()}
        self.moving = [slot for slot in self.shadows if slot in moving]
        self.stepped = {part.name: part for part in self.trial.parts if isinstance(part, Stepped)}
        self._tokenizer: Any = None

    def memory(self, libraries: int) -> dict[str, int]:
        """Bytes by component at the greatest moment of the greatest stage, beside the libraries."""
        found = [peak.training(self.shadows, (), self.run.settings(""), (), self._writing(s)) for s in self._writes()]
        more = 0
        for stage in self._trains():
            found.append(self._training(stage, self.grids(stage)))
            tried = self.stepped.get(stage.name)
            if tried is not None and tried.peak is not None:
                modelled = self._training(stage, [g for step in tried.grids for g in step])
                more = max(more, tried.peak - libraries - sum(modelled.values()))
        greatest = max(found, key=lambda m: sum(m.values()), default={})
        greatest |= {f"cache of {slot}": size for slot, size in self._caches().items()}
        # what the timed steps held beyond their tensors: freed pieces between live ones, copies inside of products
        return greatest | ({"allocator": more} if more else {})

    def grids(self, stage: Train) -> list[Grid]:
        """The micro-batches of a stage: those it will draw, else those of the trial, else the largest there can be."""
        settings, tried = self.run.settings(stage.name), self.stepped.get(stage.name)
        if tried is not None:
            return [g for step in tried.ahead or tried.grids for g in step]
        tokenizer = self._own_tokenizer()
        collate = Collate(tokenizer, settings.max_length, stage.views, pack=settings.pack)
        ahead = drawn(stage, settings, self.ws, collate)
        found = [g for step in ahead for g in step]
        return found or [supposed(stage, settings, self.ws.data["train"], tokenizer)]

    def disk(self) -> dict[str, int]:
        """Bytes by what is written."""
        out: dict[str, int] = {}
        trains = self._trains()
        for slot in self.moving:
            shadow = self.shadows[slot]
            weights, moments = shadow.weight_bytes, 2 * peak.FLOAT * shadow.num_trained
            keep = max(self.run.settings(s.name).keep_last for s in trains)
            # while a checkpoint is written the one before it stands
            out["checkpoints, while training"] = out.get("checkpoints, while training", 0)
            out["checkpoints, while training"] += (weights + moments) * (keep + 1)
            out["weights of each stage"] = out.get("weights of each stage", 0) + weights * len(trains)
            out["student"] = weights
            out["start of the student"] = weights if self.run.models[slot].shrink else 0
        out |= {f"cache of {slot}": size for slot, size in self._caches().items()}
        out["report"] = 6_000_000
        return out

    def stages(self) -> Iterator[StagePlan]:
        """Each stage with its time, as far as it was tried."""
        if not self.trial.parts:
            for stage in stages(self.recipe.stages):
                if isinstance(stage, Generate):
                    batches = -(-len(self.ws.data[stage.over]) // GENERATE_BATCH)
                    yield StagePlan(stage.name, "writes answers", batches)
                elif isinstance(stage, Train):
                    yield StagePlan(stage.name, "trains", self.run.settings(stage.name).steps)
        saving = 0.0
        for part in self.trial.parts:
            if isinstance(part, Timed):
                yield StagePlan(**asdict(part))
            else:
                yield self._stepped(part)
                saving += part.saving * self._weights_share()
        if saving:
            yield StagePlan("finish", "writes the student and the report", 1, None, saving)

    # -- training -----------------------------------------------------------------------------------------------
    def _training(self, stage: Train, grids: Sequence[Grid]) -> dict[str, int]:
        moves = [slot for slot in self.moving if any(slot in u.moves for u in stage.updates)]
        settings = self.run.settings(stage.name)
        return peak.training(self.shadows, moves, settings, grids, self._writing(stage, grids))

    def _stepped(self, part: Stepped) -> StagePlan:
        """A stage's time: of a step as its work is, of its checkpoints, and what the first step took beyond."""
        settings = self.run.settings(part.name)
        works = [self._work(part.name, step) for step in part.grids] if part.ahead else [1.0] * len(part.grids)
        ahead = [self._work(part.name, step) for step in part.ahead] or [1.0]
        # the first step also pays for allocation and for choosing kernels
        later = slice(1, None) if len(works) > 1 else slice(None)
        rate = sum(part.seconds[later]) / sum(works[later])
        each = rate * sum(ahead) / len(ahead)
        training = each * settings.steps + max(0.0, part.seconds[0] - rate * works[0])
        checkpoints = min(settings.steps, 1 + int(training / settings.checkpoint_seconds))
        tokens = sum(part.tokens) / len(part.tokens)
        # the stage's weights are written once more behind its last checkpoint
        seconds = training + part.saving * (checkpoints + self._weights_share())
        return StagePlan(part.name, "trains", settings.steps, int(tokens * settings.steps), seconds, each)

    def _work(self, stage: str, grids: Iterable[Grid]) -> float:
        short = self.run.settings(stage).gradient_checkpointing
        return float(sum(
            shadow.flops(g.rows, g.width, g.units, moves=slot in self.moving, short=short)
            for g in grids for slot, shadow in self.shadows.items()
        ))  # fmt: skip

    def _weights_share(self) -> float:
        """What the weights are of a checkpoint."""
        weights = sum(self.shadows[slot].weight_bytes for slot in self.moving)
        moments = sum(2 * peak.FLOAT * self.shadows[slot].num_trained for slot in self.moving)
        return weights / (weights + moments) if weights else 0.0

    # -- writing and caches -------------------------------------------------------------------------------------
    def _writing(self, stage: Generate | Train, grids: Sequence[Grid] = ()) -> list[Writing]:
        out = []
        asked = written(stage.source) if isinstance(stage, Train) else written(stage.steps)
        for ask in asked:
            whos = (ask.who,) if isinstance(ask.who, str) else ask.who.voices
            over = self.ws.data.get(stage.over if isinstance(stage, Generate) else "train") or ()
            prompt = longest(over, self._own_tokenizer(), ask.max_tokens) - ask.max_tokens
            size = self.run.settings(stage.name).batch_size if isinstance(stage, Train) else GENERATE_BATCH
            rows = min(ask.batch_size, size * ask.times)
            out += [Writing(who, rows, prompt, ask.max_tokens) for who in whos]
        return out

    def _caches(self) -> dict[str, int]:
        """By slot, the bytes of what the run's steps ask a teacher's cache for."""
        out = {}
        for slot in caching.cached_slots(self.run):
            size = caching.bytes_a_position(self.run, slot, self.shadows.get(slot) or self.shadows["student"])
            units = 0
            for stage in self._trains():
                some = self.grids(stage)
                steps = self.run.settings(stage.name)
                rows = min(len(self.ws.data["train"]), steps.steps * steps.batch_size)
                micro = min(steps.micro_batch_size or steps.batch_size, steps.batch_size)
                units = max(units, sum(g.units for g in some) * rows // max(1, len(some) * micro))
            out[slot] = int(size * units)
        return out

    def _trains(self) -> list[Train]:
        return [s for s in stages(self.recipe.stages) if isinstance(s, Train)]

    def _writes(self) -> list[Generate]:
        return [s for s in stages(self.recipe.stages) if isinstance(s, Generate)]

    def _own_tokenizer(self) -> Any:
        if self._tokenizer is None:
            slot = "student" if "student" in self.configs else next(iter(self.configs))
            self._tokenizer = load_tokenizer(str(_loaded(self.run, slot).load))
        return self._tokenizer


def _shadow(run: RunFile, slot: str, config: Any, moves: bool) -> Shadow:
    model = run.models[slot]
    lora = model.lora
    freeze = run.settings("").freeze if moves else ()
    rank, targets = (lora.rank, lora.targets) if lora else (0, ())
    return Shadow(config, model.dtype, bits=model.bits, rank=rank, targets=targets, freeze=freeze)


def _on_machines(
    run: RunFile, recipe: Recipe, configs: Mapping[str, Any], machines: Machines
) -> dict[str, dict[str, Any]]:
    out = {}
    for stage in (s for s in stages(recipe.stages) if isinstance(s, Train)):
        moves = {slot for update in stage.updates for slot in update.moves}
        roles = {
            slot: Role.of(config, run.models[slot].dtype, moves=slot in moves, split=run.models[slot].shard)
            for slot, config in configs.items()
        }
        out[stage.name] = estimate(roles, run.settings(stage.name), machines).to_dict()
    return out


def _source(settings: ModelSettings) -> str:
    if settings.server:
        return f"{settings.server.model} at {settings.server.url}"
    if settings.cache and not settings.load and not settings.shrink:
        return f"the cache {settings.cache.folder}"
    return settings.load or f"{settings.shrink.layers or 'all'} blocks of {settings.shrink.source}"  # type: ignore[union-attr]


def _loaded(run: RunFile, slot: str) -> ModelSettings:
    """The settings of the model that a slot is loaded from, or cut out of."""
    settings = run.models[slot]
    return settings if settings.load else run.models[settings.shrink.source]  # type: ignore[union-attr]


def _config(run: RunFile, slot: str) -> Any:
    settings, source = run.models[slot], _loaded(run, slot)
    config = configuration(str(source.load), trust_remote_code=source.trust_remote_code)
    if settings.shrink and settings.shrink.layers is not None:
        layers = settings.shrink.layers
        config.num_hidden_layers = layers if isinstance(layers, int) else len(layers)
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: config.num_hidden_layers]
    return config
