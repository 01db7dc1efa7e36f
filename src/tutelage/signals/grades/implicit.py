"""The reward that two models imply: how much likelier one of them finds the answer."""

from __future__ import annotations

from ...core.signal import Read, Signal
from ..pools import RowMean, RowSum
from ..readouts import LogProb


def log_ratio(better: str = "teacher", worse: str = "reference", *, beta: float = 1.0, mean: bool = False) -> Signal:
    """``beta sum_t (log p_better(y_t) - log p_worse(y_t))`` over a record's trained tokens: Float[R].

    The reward for which ``better`` is the optimal policy against ``worse`` at strength ``beta`` (arXiv:2305.18290).
    Write it with ``Note("reward", log_ratio())``.

    Args:
        better: The voice that was trained for the reward.
        worse: What it was trained from.
        beta: The strength of the penalty that it was trained with, > 0.
        mean: Divide by the number of tokens, so that long answers do not win by length.
    """
    gap = LogProb(Read(better)) - LogProb(Read(worse))
    return (RowMean(gap) if mean else RowSum(gap)) * beta
