"""The k most probable categories in few bytes, with exactly the mass of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...core.scores import Scores
from .code import Ranked, ordered, put_lists, take_lists
from .form import Array, Fields, Form, checked, most_probable, with_target
from .levels import NUM_TAILS, Ladder, log_sum, tail_level, tail_value

TAIL_BITS = 6
APART_NATS = 1e-4


@dataclass(frozen=True)
class Top(Form):
    """The k most probable categories, coded, with exactly the mass of the rest, and the token that is there.

    Log-probabilities are rounded to a ``Ladder`` and the log-odds of the rest's mass to 1/64; then the kept ones are
    scaled to the mass that the rest leaves. What was read back is a distribution again, and writing it again changes
    nothing that matters.

    Args:
        num_kept: k, >= 1; all when the vocabulary is smaller.
        num_categories: C.
        coarse: See ``Ladder``.
        fine: See ``Ladder``.
    """

    num_kept: int
    num_categories: int
    coarse: float = 0.125
    fine: float = 0.01
    coded = True
    gives = frozenset({"next.top", "next.target"})

    def __post_init__(self) -> None:
        checked(self, num_kept=1)
        _ = self.ladder

    @cached_property
    def ladder(self) -> Ladder:
        """How values are rounded."""
        return Ladder(self.coarse, self.fine)

    @property
    def width(self) -> int:
        """How many are kept."""
        return min(self.num_kept, self.num_categories)

    def of(self, scores: Scores, targets: Array, generator: torch.Generator) -> Fields:
        return self.rounded(most_probable(scores, targets, self.width), targets)

    def rounded(self, top: Fields, targets: Array) -> Fields:
        """What is kept of the most probable categories, whose log-probabilities and the targets' are given."""
        values = top["log_probs"]
        rest = np.full(len(values), -np.inf)
        if self.width < self.num_categories:
            with np.errstate(divide="ignore"):
                rest = np.log(np.maximum(-np.expm1(np.minimum(log_sum(values), 0.0)), 0.0))
        inside = (top["ids"] == targets[:, None]).any(1)
        outside = np.where(inside, 0, self.ladder.level(top["target"]))
        return {"ids": top["ids"], "levels": self.ladder.level(values), "tail": tail_level(rest), "outside": outside}

    def put(self, out: Any, row: Fields, targets: Array) -> None:
        lists = Ranked(np.full(len(targets), self.width), row["ids"].ravel(), row["levels"].ravel())
        put_lists(out, ordered(lists, out.code), self.ladder.size)
        if self.width < self.num_categories:
            out.put("tail", row["tail"] >> TAIL_BITS, (NUM_TAILS >> TAIL_BITS) + 1)
            out.put_even(row["tail"] & ((1 << TAIL_BITS) - 1), np.full(len(targets), 1 << TAIL_BITS))
            absent = ~(row["ids"] == targets[:, None]).any(1)
            out.put("outside", row["outside"][absent], self.ladder.size)

    def take(self, source: Any, targets: Array) -> Fields:
        num = len(targets)
        lists = take_lists(source, np.full(num, self.width), self.ladder.size)
        ids, levels = lists.ids.reshape(num, self.width), lists.levels.reshape(num, self.width)
        tail, outside = np.zeros(num, np.int64), np.zeros(num, np.int64)
        if self.width < self.num_categories:
            tail = source.take("tail", num, (NUM_TAILS >> TAIL_BITS) + 1) << TAIL_BITS
            tail = tail + source.take_even(np.full(num, 1 << TAIL_BITS))
            absent = ~(ids == targets[:, None]).any(1)
            outside[absent] = source.take("outside", int(absent.sum()), self.ladder.size)
        return {"ids": ids, "levels": levels, "tail": tail, "outside": outside}

    def scores(self, rows: Fields) -> Scores:
        values = self.ladder.value(rows["levels"])
        log_rest, log_kept = tail_value(rows["tail"])
        values = values - log_sum(values)[:, None] + log_kept[:, None]
        # the token that is there lies in the rest, and is less probable than what was kept, whatever the rounding
        most = np.minimum(log_rest, values.min(1, initial=0.0) - APART_NATS)
        target = np.minimum(self.ladder.value(rows["outside"]), most)
        return with_target(
            {"ids": rows["ids"], "log_probs": values, "target": target, "targets": rows["targets"]}, self.num_categories
        )

    def bytes_a_position(self) -> float:
        # measured at k = 50 to 100 on two vocabularies: an id costs five bits less than its number, a value 1.7
        each = max(2.0, np.log2(max(2, self.num_categories)) - 5.0) + 1.7
        return 4.0 + self.width * each / 8
