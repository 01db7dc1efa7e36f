"""Lenses: what a read passes through before it is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.context import Context
from ..core.errors import NeedError
from ..core.scores import Head, Lazy
from ..core.signal import Couples, Read


@dataclass(frozen=True)
class Project:
    """Through a trained part (a projector, a gate) of the workspace.

    Args:
        part: The part's slot; name it in ``moves`` of the update that trains it.
    """

    part: str

    def __call__(self, value: Tensor, ctx: Context) -> Tensor:
        return ctx.workspace.models[self.part](value)


@dataclass(frozen=True)
class AgainstBatch:
    """Features as scores over the batch: a head whose classes are another read's features.

    ``logits = scale * cos(value, other)``: in-batch contrast becomes a divergence or a cross-entropy over R categories,
    chunked like any vocabulary, with gradients to both sides.

    Args:
        other: The read whose features are the classes.
        scale: Inverse temperature.
    """

    other: Read
    scale: float = 20.0
    couples: ClassVar[Couples] = Couples.BATCH

    def __call__(self, value: Tensor, ctx: Context) -> Lazy:
        other = ctx.field(self.other)
        if not isinstance(value, Tensor) or not isinstance(other, Tensor):
            raise NeedError(
                "AgainstBatch", got="scores", expected="features on both sides", remedy="Read e.g. 'pooled'."
            )
        unit = torch.nn.functional.normalize
        return Lazy(unit(value, dim=-1), Head(unit(other, dim=-1), scale=self.scale))
