"""Credit: which of several models finds a span clearly more probable than the others do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import SettingError

LABELS = ("shared", "teacher", "student", "boosted", "common")
SHARED, TEACHER, STUDENT, BOOSTED, COMMON = range(len(LABELS))
LEAST, USUAL, MOST = 0.05, 0.1, 0.15  # of beta


@dataclass(frozen=True)
class Margins:
    """Credits each span to a model by the differences of their probabilities.

    In this order, the first that holds: shared if no two of teacher, student and distilled student differ by more than
    ``alpha``; teacher if ``p_teacher - p_student > beta``; student if ``p_student - p_teacher > beta``; else boosted:
    the distilled student stands apart from both. Without a distilled student: teacher, student, or common.

    Args:
        alpha: Differences up to it are noise, in [0, beta].
        beta: What parts the classes, in (0, 1); None finds it among the spans themselves (``between``), from 0.05 to
            0.15.

    Raises:
        SettingError: A margin outside its range.
    """

    alpha: float = 0.05
    beta: float | None = USUAL

    def __post_init__(self) -> None:
        beta = LEAST if self.beta is None else self.beta
        if not 0 <= self.alpha <= beta < 1 or beta == 0:
            raise SettingError(
                "Margins",
                got=f"alpha={self.alpha}, beta={self.beta}",
                expected="0 <= alpha <= beta < 1 and beta above 0; alpha at most 0.05 where beta is found",
                remedy="0.05 and 0.1 part the classes well.",
            )

    def __call__(self, p_teacher: Tensor, p_student: Tensor, p_distilled: Tensor | None = None) -> Tensor:
        """Int[J], indices into ``LABELS``; all probabilities Float[J]."""
        lead = p_teacher - p_student
        beta = between(lead.abs()) if self.beta is None else self.beta
        rest = torch.full_like(lead, COMMON if p_distilled is None else BOOSTED, dtype=torch.long)
        out = torch.where(lead > beta, TEACHER, torch.where(-lead > beta, STUDENT, rest))
        if p_distilled is None:
            return out
        gaps = torch.stack([lead, p_student - p_distilled, p_teacher - p_distilled]).abs()
        return torch.where((gaps <= self.alpha).all(0), SHARED, out)


def between(values: Tensor) -> float:
    """The value that parts numbers best into two classes, low and high, kept within 0.05 .. 0.15.

    The cut maximises ``n_low n_high (mean_high - mean_low)^2`` (the variance between the classes) over all places
    between two of the values, and lies in the middle of its gap; 0.1 where all are equal.

    Args:
        values: Float[J].

    Source: N. Otsu, A threshold selection method from gray-level histograms, 1979.
    """
    ordered = values.double().sort().values
    if len(ordered) < 2 or float(ordered[-1]) == float(ordered[0]):
        return USUAL
    low = torch.arange(1, len(ordered), dtype=torch.float64)
    high = len(ordered) - low
    sums = ordered.cumsum(0)
    gap = (sums[-1] - sums[:-1]) / high - sums[:-1] / low
    at = int((low * high * gap.square()).argmax())
    return min(max(float(ordered[at] + ordered[at + 1]) / 2, LEAST), MOST)
