"""Lenses on scores: other logits over the same categories, read where the scores are read, in the same sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.context import spread
from ..core.errors import NeedError, SettingError
from ..core.joined import couples
from ..core.mapped import Divided, Standard
from ..core.scores import Scores
from ..core.signal import Couples, Read, Signal

LEAST, MOST = 1e-4, 1e4


@dataclass(frozen=True)
class AtTemperature:
    """Scores at a temperature of each unit's own: ``log softmax(z_u / t_u)``.

    The gradient gets ``1 / t_u`` and nothing through ``t``. To keep its size, multiply the loss by ``Still(t) ** 2``,
    which keeps the closed form. A temperature that reads scores (an entropy, a confidence) is found in a pass without
    gradient before the sweep; one that is noted on the records costs nothing.

    Args:
        temperature: A signal over these units, or over rows, in [1e-4, 1e4].
        over: The unit list of the scores.

    Raises:
        SettingError: When read: a temperature outside its range.
        NeedError: When read: features and not scores.
    """

    temperature: Signal
    over: str = "tokens"

    @property
    def couples(self) -> Couples:
        """What one unit's temperature depends on."""
        return Couples.BATCH if couples(self.temperature) else Couples.NOTHING

    def reads(self) -> frozenset[Read]:
        """What its temperature reads."""
        return self.temperature.reads()

    def __call__(self, value: Any, ctx: Any) -> Scores:
        _scores(value, "AtTemperature")
        by = spread(ctx.still(self.temperature), self.temperature.over, self.over, ctx.batch.units)
        by = by.detach().expand(len(value))
        if by.numel() and not (float(by.min()) >= LEAST and float(by.max()) <= MOST):
            raise SettingError(
                "AtTemperature.temperature",
                got=f"values from {float(by.min()):.3g} to {float(by.max()):.3g}",
                expected=f"numbers in [{LEAST:g}, {MOST:g}]",
                remedy="Keep it in its range with Floor and Ceiling.",
            )
        return Divided(value, by)


@dataclass(frozen=True)
class Standardised:
    """Scores from logits of mean 0 and one standard deviation: ``log softmax((z - mean z) / s / temperature)``.

    Mean and deviation (over C - 1) are of a unit's own row, so nothing is swept twice; the learner's gradient goes
    through both. A loss on it changes neither mean nor scale of the logits: keep a term on plain scores beside it.

    Args:
        temperature: In (0, 1e4); with a whole vocabulary 0.3 to 1, since deviations of the likely words are large.

    Raises:
        SettingError: A temperature outside its range.
        NeedError: When read: features and not scores.

    Source: arXiv:2403.01427.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < MOST:
            raise SettingError(
                "Standardised.temperature",
                got=str(self.temperature),
                expected="a number > 0",
                remedy="2 is the paper's for 100 classes; 0.3 to 1 for a vocabulary.",
            )

    def __call__(self, value: Any, ctx: Any) -> Scores:
        _scores(value, "Standardised")
        return Standard(value, self.temperature)


def _scores(value: Any, where: str) -> None:
    if not isinstance(value, Scores):
        raise NeedError(where, got="features", expected="scores", remedy="Read 'next', or classify the features first.")
