"""An unbiased sample of the teacher's distribution in few bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.scores import Scores
from .code import Ranked, ordered, put_lists, take_lists
from .form import Array, Fields, Form, checked, slices, stacked
from .scores import Drawn as Sample

WEIGHT_STEPS = 16
MOST_OCTAVES = 12
NUM_WEIGHTS = 60 * WEIGHT_STEPS
"""Levels of a weight: sixteenths of an octave from 2^-48 to 2^12, and 0."""


@dataclass(frozen=True)
class Drawn(Form):
    """Ids drawn from the teacher with replacement, each with an unbiased estimate of its probability, coded.

    At temperature 1 the estimate is ``count / num_draws``. Otherwise ids come from ``s ~ p^(1 / temperature)`` and the
    estimate is ``count / num_draws * p / s``, rounded up or down at random to a sixteenth of an octave so that its
    expectation stays. Estimates are not rescaled: that would bias them.

    Args:
        num_draws: Draws a position, >= 1.
        num_categories: C.
        temperature: Of the draws, > 0; above 1 spreads them over more ids.

    Source: arXiv:2503.16870.
    """

    num_draws: int
    num_categories: int
    temperature: float = 1.0
    coded = True
    linear = True

    def __post_init__(self) -> None:
        checked(self, num_draws=1, temperature=1e-3)

    def of(self, scores: Scores, targets: Array, generator: torch.Generator) -> Fields:
        ids, levels = [], []
        for rows in slices(scores):
            one, other = self._draw(scores.at(rows).double().cpu(), generator)
            ids.append(one)
            levels.append(other)
        none = np.zeros((0, 0), np.int64)
        return {"ids": stacked([none, *ids]), "levels": stacked([none, *levels])}

    def put(self, out: Any, row: Fields, targets: Array) -> None:
        real = row["ids"] >= 0
        lengths = real.sum(1)
        out.put("length", lengths, self.num_draws + 1)
        put_lists(out, ordered(Ranked(lengths, row["ids"][real], row["levels"][real]), out.code), self._num_levels)

    def take(self, source: Any, targets: Array) -> Fields:
        lengths = source.take("length", len(targets), self.num_draws + 1)
        lists = take_lists(source, lengths, self._num_levels)
        real = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        ids, levels = np.full(real.shape, -1), np.zeros(real.shape, np.int64)
        ids[real], levels[real] = lists.ids, lists.levels
        return {"ids": ids, "levels": levels}

    def scores(self, rows: Fields) -> Scores:
        real, weights = rows["ids"] >= 0, self._weight(rows["levels"])
        ids, weights = (np.where(real, every, every[:, :1]) for every in (rows["ids"], weights))
        return Sample(torch.from_numpy(ids), torch.from_numpy(weights.astype(np.float32)), self.num_categories)

    def bytes_a_position(self) -> float:
        # on language about a quarter of 50 draws are different ids
        return 2.0 + 0.25 * self.num_draws * (np.log2(max(2, self.num_categories)) - 3.0) / 8

    @property
    def _num_levels(self) -> int:
        return self.num_draws + 1 if self.temperature == 1 else NUM_WEIGHTS

    def _weight(self, levels: Array) -> Array:
        if self.temperature == 1:
            return levels / self.num_draws
        return np.where(levels == 0, 0.0, 2.0 ** ((levels - NUM_WEIGHTS + 1) / WEIGHT_STEPS + MOST_OCTAVES))

    def _draw(self, log_probs: Tensor, generator: torch.Generator) -> tuple[Array, Array]:
        tempered = (log_probs / self.temperature).log_softmax(-1)
        drawn = torch.multinomial(tempered.exp(), self.num_draws, replacement=True, generator=generator).sort(1).values
        ids, counts = _counted(drawn.numpy())
        if self.temperature == 1:
            return ids, counts
        where = torch.from_numpy(np.maximum(ids, 0))
        ratio = (log_probs.gather(1, where) - tempered.gather(1, where)).exp().numpy()
        return ids, self._rounded(counts / self.num_draws * ratio, generator)

    def _rounded(self, weights: Array, generator: torch.Generator) -> Array:
        """Levels whose weight has the given expectation."""
        with np.errstate(divide="ignore"):
            exact = (np.log2(weights) - MOST_OCTAVES) * WEIGHT_STEPS + NUM_WEIGHTS - 1
        low = np.clip(np.floor(exact), 0, NUM_WEIGHTS - 2).astype(np.int64)
        below, above = self._weight(low), self._weight(low + 1)
        chance = torch.rand(weights.shape, generator=generator, dtype=torch.float64).numpy()
        return np.where(weights > 0, low + (chance < (weights - below) / (above - below)), 0)


WEIGHT_STEPS = 16
MOST_OCTAVES = 12
NUM_WEIGHTS = 60 * WEIGHT_STEPS


def _counted(drawn: Array) -> tuple[Array, Array]:
    """The different ids of each sorted row and how often each comes: Int[T W], filled up with -1 and 0."""
    new = np.ones(drawn.shape, bool)
    new[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    where = np.flatnonzero(new)
    lengths = new.sum(1)
    real = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    ids, counts = np.full(real.shape, -1), np.zeros(real.shape, np.int64)
    ids[real] = drawn.ravel()[where]
    counts[real] = np.diff(np.append(where, drawn.size))
    return ids, counts
