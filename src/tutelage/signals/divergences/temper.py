"""Temperature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...core.errors import SettingError


@dataclass(frozen=True)
class Tempered:
    """``T^2 D(softmax(log q / T), softmax(log p / T))``.

    The factor keeps the gradient's size when T changes, so that a mixing share with a loss on labels keeps its meaning
    (arXiv:1503.02531). Log-probabilities serve as well as logits: they differ by a constant, which the softmax removes.
    Needs every category: a remainder bucket tempers to a wrong distribution.

    Args:
        divergence: The divergence to temper.
        temperature: > 0; above 1 softens.
        scaled: Multiply by T^2.
    """

    divergence: Callable[[Tensor, Tensor], Tensor]
    temperature: float = 1.0
    scaled: bool = True
    needs_whole = True

    def __post_init__(self) -> None:
        if not 0 < self.temperature < 1e4:
            raise SettingError(
                "Tempered.temperature",
                got=str(self.temperature),
                expected="a number > 0",
                remedy="1 leaves the distributions as they are; 2 to 4 soften.",
            )

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        if self.temperature == 1:
            return self.divergence(log_q, log_p)
        value = self.divergence((log_q / self.temperature).log_softmax(-1), (log_p / self.temperature).log_softmax(-1))
        return value * self.temperature**2 if self.scaled else value
