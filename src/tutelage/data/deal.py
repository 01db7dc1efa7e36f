"""Dealt data: sources that are drawn in exact proportions, which a controller changes from interval to interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.doubts import Here
from ..core.errors import SettingError
from ..core.feedback import Chase
from ..core.record import Record
from ..core.schedule import Memory, Progress
from ..core.seeds import derive
from ..core.workspace import Workspace
from .collate import by_group
from .source import Corpus, Source


@dataclass(eq=False)
class Dealt(Source, Memory):
    """Data sets dealt out by the shares of a controller.

    For each interval of ``every`` steps a deck of ``every * size`` cards is made: a data set is on its share of them,
    rounded by largest remainder, and the deck is shuffled. The n-th card of a data set since the stage began is the
    n-th row of its epochs laid end to end, so a data set goes on where it was and starts over only when it is used up.
    The first interval has the natural proportions, those of the data sets' sizes.

    Args:
        parts: The data sets.
        shares: The controller, with a share for each of them, in order.
        every: Optimiser steps of an interval.
    """

    parts: tuple[Corpus, ...]
    shares: Chase
    every: int = 1000

    def __post_init__(self) -> None:
        if not self.parts or len(self.parts) != len(self.shares.follows) or self.every < 1:
            raise SettingError(
                "Dealt",
                got=f"{len(self.parts)} data sets, {len(self.shares.follows)} shares, every={self.every}",
                expected="a share for each data set, and intervals of a step or more",
                remedy="Name a measured data set for each that is trained on, in the same order.",
            )
        self.reset()

    def doubt(self, here: Here) -> str:
        """Shares that nothing can change."""
        if self.every < here.steps:
            return ""
        return f"shares that change each {self.every} steps stay those of the data in {here.steps}."

    def reset(self) -> None:
        """Nothing dealt."""
        self._interval, self._counts = -1, [0] * len(self.parts)
        self._dealt = [0] * len(self.parts)  # cards of earlier intervals

    def take(self, progress: Progress, ws: Workspace, size: int, slots: Sequence[int]) -> list[list[Record]]:
        """The rows on the step's cards."""
        interval, step = divmod(progress.step, self.every)
        if interval != self._interval:
            self._dealt = [a + b for a, b in zip(self._dealt, self._counts, strict=True)]
            shares = self.shares.shares if interval else self._natural(ws)
            self._counts, self._interval = largest_remainder(shares, self.every * size), interval
        deck = self._deck(progress, ws)
        out = []
        for slot in slots:
            card = step * size + slot
            part = int(deck[card])
            number = self._dealt[part] + int((deck[:card] == part).sum())
            # at step 0 a corpus counts its slots from its first row
            first = Progress(progress.stage, 0, progress.num_steps)
            out += self.parts[part].take(first, ws, size, [number])
        return out

    def figures(self) -> Mapping[str, float]:
        """The share of each data set in this interval."""
        total = max(1, sum(self._counts))
        return {f"share.{part.name}": n / total for part, n in zip(self.parts, self._counts, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """The interval, its cards and those before it."""
        return {"interval": self._interval, "counts": list(self._counts), "dealt": list(self._dealt)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._interval = int(state["interval"])
        self._counts, self._dealt = list(state["counts"]), list(state["dealt"])

    def _natural(self, ws: Workspace) -> tuple[float, ...]:
        sizes = [len(by_group(ws.data[part.name])) for part in self.parts]
        return tuple(n / max(1, sum(sizes)) for n in sizes)

    def _deck(self, progress: Progress, ws: Workspace) -> Tensor:
        cards = torch.repeat_interleave(torch.arange(len(self.parts)), torch.tensor(self._counts))
        seed = derive(ws.seed, progress.stage, "deck", self._interval)
        return cards[torch.randperm(len(cards), generator=torch.Generator().manual_seed(seed))]


def largest_remainder(shares: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to ``total``, in the proportions of shares that add up to 1; ties go to the earlier."""
    exact = [share * total for share in shares]
    counts = [math.floor(round(x, 9)) for x in exact]
    order = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts
