"""Stages of every kind over small models, as the runner takes them: changes, repeats and their ends included."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.core.catalog import build
from tutelage.core.recipe import Change, Generate, Recipe, Repeat, Train
from tutelage.core.record import Record
from tutelage.core.schedule import memories
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.data.pipeline import run_steps
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.says import Says


def run(
    recipe: str | Recipe,
    models: Mapping[str, Any],
    data: Mapping[str, Sequence[Record]],
    folder: Path,
    *,
    steps: int | Mapping[str, int],
    seed: int,
    batch_size: int = 32,
    learning_rate: float = 0.05,
    after: Callable[[str, Workspace], None] | None = None,
    given: Mapping[str, Any] | None = None,
) -> Workspace:
    """Run a recipe to its end and give the workspace; the models are left as they are.

    ``steps`` may be given by stage; ``after`` is told the path of each stage that is done. Evaluate stages are left out:
    the tests measure by themselves.
    """
    made = build(recipe, given) if isinstance(recipe, str) else recipe
    with tempfile.TemporaryDirectory(dir=folder) as name:
        ws = Workspace(Path(name), seed)
        ws.models.update({slot: copy.deepcopy(model) for slot, model in models.items()})
        ws.data.update({key: list(rows) for key, rows in data.items()})
        settings = TrainSettings(
            steps=1, batch_size=batch_size, learning_rate=learning_rate, schedule="constant", warmup_share=0.0,
            clip_norm=1e3, max_length=64, pack=False,
        )  # fmt: skip
        _stages(made.stages, ws, settings, steps, after, ())
    return ws


def _stages(stages: Sequence[Any], ws: Workspace, settings: Any, steps: Any, after: Any, path: tuple[str, ...]) -> None:
    for stage in stages:
        at = (*path, stage.name)
        if isinstance(stage, Generate):
            ws.data[stage.into] = list(run_steps(stage.steps, ws.data[stage.over], ws.within(*at)))
        elif isinstance(stage, Change):
            ws.models[stage.into] = copy.deepcopy(stage.by(ws))
        elif isinstance(stage, Repeat):
            for number in range(stage.times):
                _stages(stage.stages, ws, settings, steps, after, (*at, str(number)))
                if stage.until is not None and stage.until(ws):
                    break
        elif isinstance(stage, Train):
            num = steps if isinstance(steps, int) else steps[stage.name]
            _train(replace(stage, name="-".join(at)), ws, replace_steps(settings, num))
        if after is not None:
            after("-".join(at), ws)


def replace_steps(settings: TrainSettings, steps: int) -> TrainSettings:
    """The same settings with another number of steps."""
    return settings.model_copy(update={"steps": steps})


def _train(stage: Train, ws: Workspace, settings: TrainSettings) -> None:
    for memory in memories(stage).values():
        memory.reset()
    processes = Processes.start()
    collate = Collate(ws.models["student"].tokenizer, settings.max_length, dict(stage.views), pack=False)
    voices = {slot: Says(slot) for slot in ws.models} | dict(stage.voices)
    log = Metrics(ws.folder / "metrics.jsonl", processes)
    Loop(stage, settings, ws, processes, collate, split, voices, ws.folder / stage.name, log).run()
