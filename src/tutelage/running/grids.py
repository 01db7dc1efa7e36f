"""The grids that a stage's models will read, drawn before any model is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.batch import Batch
from ..core.recipe import Train
from ..core.record import Record
from ..core.schedule import Memory, Progress, walk
from ..core.workspace import Workspace
from ..data.collate import split
from ..data.render import render
from ..data.steps.ask import Ask
from ..training.settings import TrainSettings

MOST_STEPS = 64
"""Steps that are drawn at most: the longest of some hundred rows is close to the longest of all."""
LOOKED_AT = 256


@dataclass(frozen=True)
class Grid:
    """A micro-batch.

    Args:
        rows: Lines.
        width: Tokens of a line.
        packed: Whether several records may share a line.
        units: Trained positions.
    """

    rows: int
    width: int
    packed: bool
    units: int

    @classmethod
    def of(cls, batch: Batch) -> Grid:
        """The grid that a batch's widest view has."""
        view = max(batch.views.values(), key=lambda v: v.inputs["input_ids"].numel())
        rows, width = view.inputs["input_ids"].shape
        mask = view.inputs.get("attention_mask")
        return cls(int(rows), int(width), mask is not None and mask.dim() == 4, len(batch.units["tokens"]))

    @property
    def cells(self) -> int:
        """Tokens with their padding."""
        return self.rows * self.width


@dataclass
class Noting:
    """A collate that keeps the grids of what it makes."""

    collate: Callable[[Sequence[Record]], Batch]
    grids: list[Grid] = field(default_factory=list)

    def __call__(self, records: Sequence[Record]) -> Batch:
        batch = self.collate(records)
        self.grids.append(Grid.of(batch))
        return batch


def drawn(stage: Train, settings: TrainSettings, ws: Workspace, collate: Callable[..., Batch]) -> list[list[Grid]]:
    """The micro-batches of a stage's first steps, by step; none where a model or a memory decides what is drawn."""
    parts = [part for _, part in walk(stage.source)]
    names = {str(part.name) for part in parts if hasattr(part, "order")}
    if any(isinstance(part, Memory) for part in parts) or not names or not names <= set(ws.data):
        return []
    out = []
    for step in range(min(settings.steps, MOST_STEPS)):
        rows = stage.source.draw(
            Progress(stage.name, step, settings.steps), ws.within(stage.name, step), settings.batch_size
        )
        size = settings.micro_batch_size or max(1, len(rows))
        out.append([Grid.of(collate(some)) for some in split(rows, size)])
    return out


def written(part: Any) -> Iterator[Ask]:
    """The steps inside a stage or a source in which a model writes."""
    return (inner for _, inner in walk(part) if isinstance(inner, Ask))


def longest(records: Sequence[Record], tokenizer: Any, room: int = 0) -> int:
    """Tokens of the longest row, or, with room for an answer, of the longest prompt and that room."""
    some = records[:LOOKED_AT]
    if not room:
        return max((sum(len(s.ids) for s in render(r, tokenizer)) for r in some), default=1)
    prompts = (sum(len(s.ids) for s in render(r, tokenizer) if not s.trains) for r in some)
    return max(prompts, default=1) + room


def supposed(stage: Train, settings: TrainSettings, records: Sequence[Record], tokenizer: Any) -> Grid:
    """The largest grid that settings and data allow, where the rows themselves are not known yet."""
    room = max((ask.max_tokens for ask in written(stage.source)), default=0)
    width = min(settings.max_length, longest(records, tokenizer, room))
    rows = settings.micro_batch_size or settings.batch_size
    return Grid(rows, width, settings.pack, rows * min(width, room or width))
