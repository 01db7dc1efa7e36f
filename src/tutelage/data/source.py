"""Sources: where the rows of each optimiser step come from.

A source is asked for *slots* of a step: places in its global batch of ``size`` prompts. What a slot holds depends on
the run's seed, the stage and the step alone, so a run that goes on, or one with another number of processes, draws the
same rows. Rows of one group (the rollouts of a prompt, the two of a pair) fill one slot and are never parted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch

from ..core.errors import DataError, SettingError
from ..core.record import Record
from ..core.schedule import Progress, Schedule, value_at
from ..core.seeds import derive, generator
from ..core.workspace import Workspace
from .collate import by_group
from .render import whole


class Source(ABC):
    """Draws the rows of an optimiser step."""

    def draw(self, progress: Progress, ws: Workspace, size: int, rank: int = 0, world: int = 1) -> list[Record]:
        """This process's rows of the global batch; those of all processes in order are the batch of one process.

        Args:
            progress: The stage and the step.
            ws: The workspace.
            size: Prompts (or rows, where a row is its own group) in the global batch.
            rank: This process.
            world: The number of processes.

        Raises:
            SettingError: Fewer prompts than processes.
        """
        if size < world or not 0 <= rank < world:
            raise SettingError(
                "draw",
                got=f"size={size}, rank={rank}, world={world}",
                expected="a prompt or more for each process",
                remedy="Raise the batch size or use fewer processes.",
            )
        slots = range(size * rank // world, size * (rank + 1) // world)
        return [row for group in self.take(progress, ws, size, slots) for row in group]

    @abstractmethod
    def take(self, progress: Progress, ws: Workspace, size: int, slots: Sequence[int]) -> list[list[Record]]:
        """The rows of some slots of the step's global batch: one list a slot, empty where nothing came of it."""


@dataclass(frozen=True)
class Corpus(Source):
    """A data set, shuffled anew each epoch: a pure function of the step.

    Args:
        name: The data set in the workspace.
        trains: ``answer`` leaves each piece as it is, ``all`` trains every piece but no template text, ``whole``
            every position of the text as the student's tokenizer renders it.
        order: What its order is drawn under, its name by default: data sets of one length come in step under one.
    """

    name: str = "train"
    trains: Literal["answer", "all", "whole"] = "answer"
    order: str = ""

    def __post_init__(self) -> None:
        if self.trains not in ("answer", "all", "whole"):
            raise SettingError(
                "Corpus.trains",
                got=repr(self.trains),
                expected="'answer', 'all' or 'whole'",
                remedy="Choose what trains.",
            )

    def take(self, progress: Progress, ws: Workspace, size: int, slots: Sequence[int]) -> list[list[Record]]:
        """Slot j of step s is element ``s * size + j`` of the epochs' permutations laid end to end."""
        groups = by_group(ws.data[self.name])
        if not groups:
            raise DataError(
                f"data set {self.name!r}", got="no rows", expected="at least one", remedy="Check what was read or kept."
            )
        out = []
        for slot in slots:
            epoch, place = divmod(progress.step * size + slot, len(groups))
            order = _permutation(len(groups), derive(ws.seed, progress.stage, self.order or self.name, epoch))
            out.append([self._marked(row, ws) for row in groups[order[place]]])
        return out

    def _marked(self, record: Record, ws: Workspace) -> Record:
        if self.trains == "answer":
            return record
        if self.trains == "whole":
            return whole(record, ws.models["student" if "student" in ws.models else next(iter(ws.models))].tokenizer)
        return replace(record, pieces=tuple(replace(piece, trains=True) for piece in record.pieces))


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist())


@dataclass(frozen=True)
class Mixture(Source):
    """Several sources, each with a share.

    Args:
        parts: Pairs of a source and its share, a number or a schedule; shares are relative to their sum.
        by: ``step`` draws one source for the whole step, ``row`` one for each slot.
    """

    parts: tuple[tuple[Source, float | Schedule], ...]
    by: Literal["row", "step"] = "step"

    def __post_init__(self) -> None:
        if not self.parts or self.by not in ("row", "step"):
            raise SettingError(
                "Mixture",
                got=f"{len(self.parts)} parts, by={self.by!r}",
                expected="at least one part, by 'row' or 'step'",
                remedy="Give pairs (source, share).",
            )
        for source, share in self.parts:
            if not callable(share) and share < 0:
                raise SettingError("Mixture", got=f"share {share}", expected="0 or more", remedy="Change the share.")
            if self.by == "row" and getattr(source, "reuse", 1) > 1:
                raise SettingError(
                    "Mixture by row",
                    got=f"a part with reuse={getattr(source, 'reuse', 1)}",
                    expected="parts that draw anew each step",
                    remedy="Use by='step', where a round is used whole.",
                )

    def take(self, progress: Progress, ws: Workspace, size: int, slots: Sequence[int]) -> list[list[Record]]:
        """Each slot from the source that its coin names; the coins depend on seed, stage, step and slot alone."""
        coins = torch.rand(size + 1, dtype=torch.float64, generator=coin_generator("mixture", progress, ws)).tolist()
        if self.by == "step":
            return self.parts[self._pick(coins[size], progress)][0].take(progress, ws, size, slots)
        found: dict[int, list[Record]] = {}
        picked = {slot: self._pick(coins[slot], progress) for slot in slots}
        for number, (source, _) in enumerate(self.parts):
            some = [slot for slot in slots if picked[slot] == number]
            if some:
                found.update(zip(some, source.take(progress, ws, size, some), strict=True))
        return [found[slot] for slot in slots]

    def _pick(self, coin: float, progress: Progress) -> int:
        shares = [value_at(share, progress) for _, share in self.parts]
        total = sum(shares)
        if min(shares) < 0 or total <= 0:
            raise SettingError(
                f"Mixture at step {progress.step}",
                got=f"shares {shares}",
                expected="none below 0 and one above",
                remedy="Change the schedules.",
            )
        rest = coin * total
        for number, share in enumerate(shares):
            rest -= share
            if rest < 0:
                return number
        return max(n for n, share in enumerate(shares) if share > 0)


@dataclass(frozen=True)
class Beside(Source):
    """Several sources at once: a slot holds what each of them gives for it, so a step has the rows of all.

    Args:
        parts: The sources; every one gives ``size`` slots.
    """

    parts: tuple[Source, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise SettingError("Beside", got="no parts", expected="a source or more", remedy="Name the sources.")

    def take(self, progress: Progress, ws: Workspace, size: int, slots: Sequence[int]) -> list[list[Record]]:
        """The rows of each slot, the parts' in their order."""
        drawn = [part.take(progress, ws, size, slots) for part in self.parts]
        return [[row for rows in slot for row in rows] for slot in zip(*drawn, strict=True)]


def coin_generator(name: str, progress: Progress, ws: Workspace) -> torch.Generator:
    """The generator of a step's coins, the same in every process."""
    return generator(ws.seed, progress.stage, name, progress.step)
