"""The token that a voice would write: its most probable category, as a number that a note can hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.signal import Read, Signal


@dataclass(frozen=True)
class Best(Signal):
    """The id of the most probable category at each unit, the first of equals: Float[U].

    Ids up to 2^24 are exact in float32.
    """

    of: Read = Read("teacher")

    def __call__(self, ctx: Asks) -> Tensor:
        log_probs = ctx.log_probs(self.of)
        return log_probs.argmax(-1).to(torch.promote_types(log_probs.dtype, torch.float32))
