"""Functions of one number, applied to each value of a signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.errors import unknown
from ..core.signal import Signal

Function = Literal["abs", "exp", "tanh", "sigmoid"]
FUNCTIONS = {"abs": torch.abs, "exp": torch.exp, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


@dataclass(frozen=True)
class Apply(Signal):
    """``f(x)`` of each value.

    Args:
        function: ``abs``, ``exp``, ``tanh`` or ``sigmoid``.
        of: The signal x; ``exp`` of a log-probability is the probability.
    """

    function: Function
    of: Signal

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise unknown("Apply.function", self.function, FUNCTIONS)

    def __call__(self, ctx: Asks) -> Tensor:
        return FUNCTIONS[self.function](ctx(self.of))
