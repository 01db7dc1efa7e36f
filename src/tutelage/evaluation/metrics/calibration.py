"""Calibration: whether a model that says 70 % is right 70 % of the time; and perplexity on the same targets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...core.term import Tally

NUM_BINS = 15


def _zeros() -> Tensor:
    return torch.zeros(NUM_BINS, dtype=torch.float64)


@dataclass
class Calibration:
    """Tallies of one model's confidence, correctness, Brier score and negative log-likelihood on real targets.

    ``ece = sum_b n_b / N |accuracy_b - confidence_b|`` over 15 bins of equal width of the largest probability; bin b
    holds confidences in ``(b / 15, (b + 1) / 15]``.
    """

    counts: Tensor = field(default_factory=_zeros)
    confidences: Tensor = field(default_factory=_zeros)
    corrects: Tensor = field(default_factory=_zeros)
    brier: Tally = field(default_factory=Tally)
    nll: Tally = field(default_factory=Tally)

    @classmethod
    def of(cls, values: Mapping[str, Tensor], who: str) -> Calibration:
        """Of what ``measure`` gives for ``student`` or ``teacher``."""
        confidence, correct = values[f"{who}_confidence"].cpu().double(), values[f"{who}_correct"].cpu().double()
        code = (torch.ceil(confidence * NUM_BINS).long() - 1).clamp(0, NUM_BINS - 1)
        return cls(
            torch.bincount(code, minlength=NUM_BINS).double(),
            torch.bincount(code, weights=confidence, minlength=NUM_BINS),
            torch.bincount(code, weights=correct, minlength=NUM_BINS),
            Tally(float(values[f"{who}_brier"].sum()), len(code)),
            Tally(float(values[f"{who}_nll"].sum()), len(code)),
        )

    def __add__(self, other: Calibration) -> Calibration:
        return Calibration(
            self.counts + other.counts,
            self.confidences + other.confidences,
            self.corrects + other.corrects,
            self.brier + other.brier,
            self.nll + other.nll,
        )

    @property
    def ece(self) -> float:
        """The expected calibration error in [0, 1]; nan without a position."""
        total = float(self.counts.sum())
        return float((self.corrects - self.confidences).abs().sum()) / total if total else math.nan

    @property
    def perplexity(self) -> float:
        """``exp`` of the mean negative log-likelihood; infinite beyond the range of a float."""
        mean = self.nll.mean
        return math.exp(mean) if not mean > 709 else math.inf

    def bins(self) -> list[dict[str, Any]]:
        """The filled bins: ``{low, high, count, confidence, accuracy}``."""
        rows = []
        for b in range(NUM_BINS):
            count = int(self.counts[b])
            if count:
                means = {"confidence": float(self.confidences[b]) / count, "accuracy": float(self.corrects[b]) / count}
                rows.append({"low": b / NUM_BINS, "high": (b + 1) / NUM_BINS, "count": count, **means})
        return rows

    def result(self) -> dict[str, Any]:
        """``{ece, brier, bins}``."""
        return {"ece": self.ece, "brier": self.brier.mean, "bins": self.bins()}
