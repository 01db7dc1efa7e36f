"""Engines that write in a model's place: what a run may ask of them, and how they come to their models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.errors import SettingError
from ..core.needs import stages
from ..core.recipe import Recipe, Train
from ..core.schedule import walk
from ..data.ahead import refuse
from ..data.live import Live
from ..data.steps.ask import Ask
from ..models.causal import Causal
from ..models.embedded import Embedded
from ..voices.remote import Served, Server
from .runfile import RolloutSettings, RunFile

Say = Callable[[str], None]


def check(run: RunFile, recipe: Recipe) -> None:
    """Refuse an engine for a model whose weights it cannot be given.

    Raises:
        SettingError: A model that does not train, is behind a server, in eight bits, or split over processes.
    """
    moves = {slot for s in stages(recipe.stages) if isinstance(s, Train) for u in s.updates for slot in u.moves}
    for slot, settings in run.models.items():
        if settings.rollouts is None:
            continue
        wrong = {
            "a model that nothing trains": slot not in moves,
            "a model behind a server": settings.server is not None,
            "a model in eight bits": settings.bits is not None,
            "a model that is split over processes": settings.shard,
        }
        for got in (text for text, is_wrong in wrong.items() if is_wrong):
            raise SettingError(
                f"models.{slot}.rollouts",
                got=got,
                expected="a causal model that trains here, each process holding it whole",
                remedy="Leave rollouts out; a model that does not train may lie behind a server itself (url).",
            )
    check_ahead(run, recipe)


def check_ahead(run: RunFile, recipe: Recipe) -> None:
    """Refuse rounds that are written ahead where a step of theirs asks a model in this process.

    Raises:
        NeedError: The step.
    """
    ahead = {slot for slot, m in run.models.items() if m.rollouts is not None and m.rollouts.ahead}
    elsewhere = ahead | {slot for slot, m in run.models.items() if m.server is not None}
    for _, part in walk(recipe):
        if isinstance(part, Live) and ahead & {
            slot for _, p in walk(part.steps) if isinstance(p, Ask) for slot in p.writers
        }:
            refuse(part.steps, elsewhere)


def connect(run: RunFile, models: Mapping[str, Any], folder: Path, say: Say) -> None:
    """Give each model its engine, and the engine the model's weights.

    Raises:
        TutelageError: It cannot be reached, or does not take them.
    """
    for slot, settings in run.models.items():
        if settings.rollouts is not None:
            models[slot].engine = _engine(slot, settings.rollouts, models[slot], folder, say)


def _engine(slot: str, s: RolloutSettings, causal: Any, folder: Path, say: Say) -> Served | Embedded:
    if not isinstance(causal, Causal):
        raise SettingError(
            f"models.{slot}.rollouts",
            got=f"{type(causal).__name__}, which writes nothing",
            expected="a causal model",
            remedy="Leave rollouts out.",
        )
    dtype = torch.float32 if s.dtype == "float32" else torch.bfloat16
    if s.url is None:
        size = int(s.cache_gigabytes * 2**30)
        made = Embedded(causal, dtype=dtype, max_length=s.max_length, cache_bytes=size, tolerance_nats=s.tolerance_nats)
        made.follow(causal)
        return made
    if s.ahead and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        raise SettingError(
            f"models.{slot}.rollouts.ahead",
            got="1, in a run of several processes",
            expected="one process, which knows when its round is written",
            remedy="Set ahead = 0.",
        )
    server = Server(s.url, s.model, s.api_key_env, s.timeout_seconds, s.retry_seconds, s.concurrency)
    weights = folder / "rollouts" / slot if s.weights is None else Path(s.weights)
    kept = {"there": s.weights_there, "dtype": dtype, "tolerance_nats": s.tolerance_nats}
    served = Served(server, weights, ahead=s.ahead, say=say, **kept)
    served.connect(causal)
    return served
