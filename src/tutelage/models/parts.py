"""Modules that stand beside the models of a run: maps between widths, and heads over classes."""

from __future__ import annotations

import torch
from torch import nn


class Widths(nn.ModuleList):
    """Learned maps from one width to another, without bias: ``h W``, each beginning as the identity.

    Where the widths differ, the first features are kept and the others are 0.

    Args:
        num_maps: How many, >= 1.
        in_features: The width that is read.
        out_features: The width that is compared with.
    """

    def __init__(self, num_maps: int, in_features: int, out_features: int) -> None:
        super().__init__([nn.Linear(in_features, out_features, bias=False) for _ in range(num_maps)])
        for made in self:
            nn.init.eye_(made.weight)  # type: ignore[arg-type]


class Classes(nn.Linear):
    """A linear head over classes, drawn small as a new head of the BERT family is.

    Args:
        in_features: The width of what is classified.
        out_features: The number of classes, >= 2.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        with torch.no_grad():
            self.weight.normal_(std=0.02)
            self.bias.zero_()
