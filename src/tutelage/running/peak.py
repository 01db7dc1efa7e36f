"""Memory at the peak of a stage, from its causes: which tensors are there at the same moment.

A step has four moments that can be the peak. The student's graph stands while the teacher reads; the loss node's
buffers stand on both; in the backward pass gradients grow while the graph goes; a model that writes keeps keys and
values. What the passes hold is counted on shapes (``models.shadow``), everything else follows from the settings.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.node import ACCELERATOR_ELEMENTS, CHUNK_ELEMENTS
from ..models.cache import STEP
from ..models.shadow import Passes, Shadow, grown
from ..training.settings import TrainSettings
from .grids import Grid

FLOAT = 4
LIBRARIES_BYTES = 580_000_000
"""Of the imported libraries and a tokenizer, measured with torch 2.13 and transformers 5.23 on Linux."""


@dataclass(frozen=True)
class Writing:
    """Rows that a model writes at once.

    Args:
        who: The slot.
        rows: How many.
        prompt: Tokens of the longest prompt.
        room: Tokens of the longest answer.
    """

    who: str
    rows: int
    prompt: int
    room: int


def weights(shadows: Mapping[str, Shadow]) -> dict[str, int]:
    """Bytes of every model's weights."""
    return {f"weights of {slot}": shadow.weight_bytes for slot, shadow in shadows.items()}


def training(
    shadows: Mapping[str, Shadow],
    moves: Sequence[str],
    settings: TrainSettings,
    grids: Sequence[Grid],
    writing: Sequence[Writing] = (),
) -> dict[str, int]:
    """Bytes by component at the greatest moment of a step, the libraries aside.

    Args:
        shadows: The models that are in memory, by slot.
        moves: The slots that train.
        settings: The stage's.
        grids: Its micro-batches, the largest among them.
        writing: What is written for it while it trains.
    """
    moving = {slot: shadows[slot] for slot in moves if slot in shadows}
    moments = [_written(shadows, some) for some in writing]
    moments += _step(shadows, moving, settings, grids) if grids else []
    greatest = max(moments, key=lambda m: sum(m.values()), default={})
    optimiser = {f"optimiser of {slot}": 2 * FLOAT * s.num_trained for slot, s in moving.items()}
    return weights(shadows) | optimiser | {name: size for name, size in greatest.items() if size}


def _step(
    shadows: Mapping[str, Shadow], moving: Mapping[str, Shadow], settings: TrainSettings, grids: Sequence[Grid]
) -> list[dict[str, int]]:
    grid = max(grids, key=lambda g: g.cells)
    units = max(g.units for g in grids)
    again = settings.micro_batch_size is not None and settings.micro_batch_size < settings.batch_size
    passes = {slot: _passes(shadow, grid, settings, slot in moving, again) for slot, shadow in shadows.items()}
    kept = sum(passes[slot].kept for slot in moving)
    states = sum(FLOAT * units * shadow.hidden_size for shadow in shadows.values())
    whole = {slot: FLOAT * s.num_trained for slot, s in moving.items()}
    heads = sum(FLOAT * s.num_head for s in moving.values() if s.head_trains)
    before = {f"gradients of {slot}": size if again else 0 for slot, size in whole.items()}
    after = {f"gradients of {slot}": size for slot, size in whole.items()}
    # without earlier ones the pass counts the gradients that it makes; the head's comes from the loss, or to a tied
    # embedding from both
    apart = sum(FLOAT * s.num_head for s in moving.values() if s.head_trains and not s.tied)
    made = 0 if again else sum(whole.values()) - apart
    going = sum(p.back for slot, p in passes.items() if slot in moving) - made
    read = max(p.read for p in passes.values())
    return [
        before | {"activations": kept + states + read},
        before | {"activations": kept + states, "loss buffers": _buffers(shadows, settings, units) + heads},
        after | {"activations": max(0, going), "loss buffers": heads - (0 if again else apart)},
    ]


def _passes(shadow: Shadow, grid: Grid, settings: TrainSettings, moves: bool, again: bool) -> Passes:
    half = settings.precision == "bfloat16"
    short = settings.gradient_checkpointing
    return shadow.passes((grid.rows, grid.width, grid.packed), moves=moves, again=again, half=half, short=short)


def _buffers(shadows: Mapping[str, Shadow], settings: TrainSettings, units: int) -> int:
    """A chunk's logits of every model that has a head, and float32 copies of heads that are in half precision."""
    speaking = [s for s in shadows.values() if s.num_head]
    width = max((s.num_categories for s in speaking), default=0)
    copies = sum(FLOAT * s.num_head for s in speaking if s.dtype.itemsize < FLOAT)
    elements = head_elements(settings, len(speaking))
    rows = min(units, max(1, elements // width)) if width else 0
    return sum(FLOAT * rows * s.num_categories for s in speaking) + copies


def head_elements(settings: TrainSettings, num_models: int, *, accelerated: bool = False) -> int:
    """Elements of a chunk's logits of one model, as the loss node chooses them."""
    if settings.head_megabytes is None:
        return ACCELERATOR_ELEMENTS if accelerated else CHUNK_ELEMENTS
    return settings.head_megabytes * 10**6 // (FLOAT * max(1, num_models))


def _written(shadows: Mapping[str, Shadow], some: Writing) -> dict[str, int]:
    """Keys and values of rows that are as long as they may be, one block's twice while it grows, and their logits."""
    shadow = shadows.get(some.who)
    if shadow is None:
        return {}
    cache = some.rows * grown(some.prompt, some.room, STEP) * shadow.cache_values * shadow.dtype.itemsize
    logits = 3 * FLOAT * some.rows * shadow.num_categories
    copy = FLOAT * shadow.num_head if shadow.dtype.itemsize < FLOAT else 0
    return {"keys and values": cache + cache // shadow.num_layers, "logits while writing": logits + copy}


def resident() -> int | None:
    """Bytes that this process holds now, where the system tells."""
    return _status("VmRSS")


def highest() -> int | None:
    """The most bytes that it held since ``forget``, where the system tells."""
    return _status("VmHWM")


def forget() -> bool:
    """Begin to look for the highest use anew; whether the system can."""
    file = Path("/proc/self/clear_refs")
    try:
        file.write_text("5")
    except OSError:
        return False
    return sys.platform == "linux"


def _status(name: str) -> int | None:
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), None)
