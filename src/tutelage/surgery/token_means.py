"""Token means: a signal's mean over all positions of a data set at which the same token stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..core.errors import unknown
from ..core.signal import Signal
from ..core.workspace import Workspace
from ..data.steps.note import reader_of, values_of
from .fit import Fitted

ROWS = 16


@dataclass(frozen=True)
class TokenMeans:
    """What a class mean is where the classes are next tokens: one number a token, Float[V 1]; 0 for one never trained.

    Args:
        signal: Over tokens; its reads name model slots.
        data: The data set.
    """

    signal: Signal
    data: str = "train"

    def __call__(self, workspace: Workspace) -> Fitted:
        """Read the data once.

        Raises:
            UnknownName: No such data set.
        """
        if self.data not in workspace.data:
            raise unknown("token means", self.data, workspace.data, "Name it under [data].")
        rows = workspace.data[self.data]
        size = len(reader_of(self.signal, workspace).tokenizer)
        total, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        for start in range(0, len(rows), ROWS):
            values, over, batch = values_of(self.signal, rows[start : start + ROWS], workspace)
            target = batch.units[over].target
            assert target is not None
            total.index_add_(0, target.cpu(), values.double())
            count.index_add_(0, target.cpu(), torch.ones(len(values), dtype=torch.float64))
        return Fitted((total / count.clamp_min(1)).float().unsqueeze(1), torch.zeros(size))
