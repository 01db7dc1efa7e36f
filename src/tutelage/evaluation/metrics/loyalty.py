"""Loyalty: how faithful a student is to its teacher beyond being as often right, mistakes included."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...core.term import Tally
from .text import exact_match, last_number, numeric_match

NAMES = ("label", "probability", "on_right", "on_wrong", "teacher_accuracy", "student_accuracy", "both")


@dataclass
class Loyalty:
    """Tallies over positions of what ``measure`` gives; two of them add to the one of both batches.

    Source: Xu et al., Beyond Preserved Accuracy, arXiv:2109.03228 (label and probability loyalty); Geirhos et al.,
    Beyond Accuracy, arXiv:2006.16736 (consistency).
    """

    tallies: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in NAMES})

    @classmethod
    def of(cls, values: Mapping[str, Tensor]) -> Loyalty:
        """Of Float64[U] vectors by name."""
        same, right, own = (values[name].cpu().double() for name in ("top1", "teacher_correct", "student_correct"))
        distance = (values["jensen"].cpu().double().clamp(0, math.log(2)) / math.log(2)).sqrt()
        num, num_right = len(same), float(right.sum())
        return cls({
            "label": Tally(float(same.sum()), num),
            "probability": Tally(float((1 - distance).sum()), num),
            "on_right": Tally(float((same * right).sum()), num_right),
            "on_wrong": Tally(float((same * (1 - right)).sum()), num - num_right),
            "teacher_accuracy": Tally(num_right, num),
            "student_accuracy": Tally(float(own.sum()), num),
            "both": Tally(float((own == right).sum()), num),
        })  # fmt: skip

    def __add__(self, other: Loyalty) -> Loyalty:
        return Loyalty({name: self.tallies[name] + other.tallies[name] for name in NAMES})

    def result(self) -> dict[str, float]:
        """Shares in [0, 1], nan where nothing was counted.

        ``label``: both name the same token; ``on_right`` and ``on_wrong``: the same, where the teacher names the
        text's own token and where it does not; ``probability``: mean of ``1 - sqrt(JSD)`` with the Jensen divergence in
        bits (the root makes float32 rounding visible: up to 0.001 below 1 for equal models); ``teacher_accuracy`` and
        ``student_accuracy``: each names the text's own token; ``consistency``: Cohen's kappa of both being right or
        both wrong, 0 for what two such accuracies give by chance, at most 1.
        """
        means = {name: self.tallies[name].mean for name in NAMES}
        accuracies = means["teacher_accuracy"], means["student_accuracy"]
        return means | {"consistency": kappa(*accuracies, means.pop("both"))}


def kappa(one: float, other: float, both: float) -> float:
    """``(both - chance) / (1 - chance)`` for two accuracies and the share where both are right or both wrong.

    1 where neither leaves chance a difference to make (both always right, or both always wrong).
    """
    chance = one * other + (1 - one) * (1 - other)
    return (both - chance) / (1 - chance) if chance != 1 else 1.0


def answer_loyalty(answers: Sequence[str], taught: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """How often a student's answers come to the teacher's conclusion, where that is right and where it is wrong.

    A conclusion is the final number; where an answer has none, its whole text.

    Args:
        answers: The student's.
        taught: The teacher's, to the same prompts.
        references: The right answers, which state a final number.

    Returns:
        ``num``, ``label`` (the same conclusion), ``on_right``, ``on_wrong``; empty without an answer.
    """
    if not answers:
        return {}
    same = [_concludes_alike(a, t) for a, t in zip(answers, taught, strict=True)]
    right = [numeric_match(t, r) for t, r in zip(taught, references, strict=True)]
    sides = {"on_right": True, "on_wrong": False}
    split = {name: Tally(sum(s for s, r in zip(same, right) if r is is_right), right.count(is_right)).mean
             for name, is_right in sides.items()}  # fmt: skip
    return {"num": len(same), "label": sum(same) / len(same), **split}


def _concludes_alike(one: str, other: str) -> bool:
    numbers = last_number(one), last_number(other)
    return exact_match(one, other) if None in numbers else numbers[0] == numbers[1]
