"""Lenses: what a read passes through before it is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

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
        index: Which of its modules, where the part is a list of them.
    """

    part: str
    index: int | None = None

    def __call__(self, value: Tensor, ctx: Any) -> Tensor:
        module = ctx.workspace.models[self.part]
        return (module if self.index is None else module[self.index])(value)


@dataclass(frozen=True)
class Level:
    """Each unit's features at root mean square 1, Float[... D]: ``h / sqrt(mean h^2 + epsilon)``.

    The stream of a model with norms before its blocks is read through them: its direction means something, its length
    does not, and a few positions can be a thousand times longer than the others.

    Args:
        epsilon: Keeps a stream of 0 at 0.
    """

    epsilon: float = 1e-6

    def __call__(self, value: Tensor, ctx: Any) -> Tensor:
        return value * (value.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()


@dataclass(frozen=True)
class Classify:
    """Features Float[R D] as scores over classes: ``logits = h W^T + b`` with the W and b of a trained part.

    Args:
        part: The slot of a linear map; name it in ``moves`` of the update that trains it.
    """

    part: str

    def __call__(self, value: Tensor, ctx: Any) -> Lazy:
        head = ctx.workspace.models[self.part]
        return Lazy(value, Head(head.weight, head.bias))


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
