"""Models that are split over the processes of a run: what may be asked of them, and how they come to be split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.describe import describe
from ..core.errors import NeedError, SettingError
from ..core.needs import stages
from ..core.recipe import Change, Evaluate, Generate, Recipe, Train
from ..core.schedule import walk
from ..core.workspace import Workspace
from ..training.distributed import Processes
from ..training.shards import asked
from .runfile import RunFile


def split_slots(run: RunFile) -> list[str]:
    """The slots that are to be split."""
    return [slot for slot, settings in run.models.items() if settings.shard]


def check_split(run: RunFile, recipe: Recipe) -> None:
    """Refuse what one process does alone with a model that all of them hold together.

    Raises:
        SettingError: A model behind a server, or in eight bits.
        NeedError: A stage that writes with such a model or changes it, or a copy of it that follows.
    """
    for slot in split_slots(run):
        settings = run.models[slot]
        if settings.server is not None or settings.bits:
            raise SettingError(
                f"models.{slot}.shard",
                got="true, for a model " + ("behind a server" if settings.server else "in eight bits"),
                expected="weights in float32, bfloat16 or float16 in these processes",
                remedy="Leave shard out.",
            )
        for stage in stages(recipe.stages):
            why = _alone(stage, slot, settings.lora is not None)
            if why:
                raise NeedError(
                    f"stage {stage.name!r}, model {slot!r}",
                    got=f"shard = true, and {why}",
                    expected="a model that is only scored or trained while it is split",
                    remedy=f"Leave models.{slot}.shard out, or put the model behind a server (models.{slot}.url).",
                )


def load(run: RunFile, workspace: Workspace, processes: Processes, work: Callable[[], None]) -> tuple[str, ...]:
    """Fill the model slots, the first process before the others, and split those that are to be; what to say of it.

    Where models are split, the processes of a machine load one after the other: only one of them holds whole weights at
    a time.
    """
    slots = split_slots(run)
    if not slots or processes.world == 1:
        with processes.accelerator.main_process_first():
            work()
        for slot in slots:
            workspace.models[slot].model.to(processes.accelerator.device)
        return tuple(f"models.{slot}.shard has no effect in a run of one process." for slot in slots)
    processes.shards.meet(processes.accelerator.device)
    local = processes.accelerator.local_process_index
    # the very first makes what the others then only read (a cut student), so it goes alone
    for turn in range(-1, max(processes.gather(local)) + 1):
        if (processes.main and turn == -1) or (not processes.main and turn == local):
            work()
            for slot in slots:
                processes.shards.split(slot, workspace.models[slot])
        processes.wait()
    return (f"Split over {processes.world} processes: {', '.join(slots)}.",)


def _alone(stage: Any, slot: str, has_adapter: bool) -> str:
    """What a stage does with a slot in one process alone; empty if nothing."""
    if isinstance(stage, Generate | Evaluate) and slot in asked(walk(stage)):
        return "the first process writes with it alone"
    if isinstance(stage, Change) and (stage.into == slot or repr(slot) in describe(stage)):
        return "weights are changed outside of training"
    if isinstance(stage, Train):
        for _, part in walk(stage):
            if hasattr(part, "shadow") and getattr(part, "slot", None) == slot and not _bare(part, has_adapter):
                return f"a copy of it is kept ({type(part).__name__})"
    return ""


def _bare(part: Any, has_adapter: bool) -> bool:
    """Whether a copy is none: the base of a model with an adapter, as it was at the start."""
    return has_adapter and part.shadow.rate == 0
