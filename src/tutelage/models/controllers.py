"""Controllers: small networks that turn a few numbers a unit into a decision."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Controller(nn.Sequential):
    """A share in (0, 1) of a unit's numbers: Float[U F] -> Float[U], by two hidden layers with leaky rectifiers.

    Args:
        in_features: F.
        widths: Of the hidden layers.
    """

    def __init__(self, in_features: int, widths: tuple[int, int] = (32, 16)) -> None:
        first, second = widths
        super().__init__(
            nn.Linear(in_features, first),
            nn.LeakyReLU(),
            nn.Linear(first, second),
            nn.LeakyReLU(),
            nn.Linear(second, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The share."""
        return torch.sigmoid(super().forward(x)).squeeze(-1)


class Policy(nn.Sequential):
    """The mean of an action, a real number, of a unit's numbers: Float[U F] -> Float[U]; 0 everywhere at the start.

    Args:
        in_features: F.
        width: Of the hidden layer.
    """

    def __init__(self, in_features: int, width: int = 32) -> None:
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(nn.Linear(in_features, width), nn.Tanh(), last)

    def forward(self, x: Tensor) -> Tensor:
        """The mean."""
        return super().forward(x).squeeze(-1)
