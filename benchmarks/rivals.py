"""The peers' fused losses over the same inputs, each called as its own trainer calls it.

Runs in the environment of ``benchmarks.peers``. Each gives the mean divergence over the positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .head import Inputs

# Both call the teacher's share of the mixture beta: 0 is forward KL, 1 reverse KL.
BETAS = {"forward KL": 0.0, "reverse KL": 1.0, "Jensen 0.5": 0.5}


def trl(inputs: Inputs, divergence: str) -> Tensor:
    """``DistillationTrainer``'s kernel: tiles of 4,096 by 32,768; its backward recomputes the logits."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction  # pyright: ignore[reportMissingImports]

    sides = inputs.hidden, inputs.weight, None, inputs.teacher_hidden, inputs.teacher_weight, None
    return ChunkedDivergenceFunction.apply(*sides, BETAS[divergence])[0].mean()


def liger(inputs: Inputs, divergence: str) -> Tensor:
    """The chunked loss without ``torch.compile`` (which its Triton-less CPU path does not need), its own chunk size."""
    from liger_kernel.chunked_loss.jsd_loss import (  # pyright: ignore[reportMissingImports]
        LigerFusedLinearJSDLoss,
    )

    loss: Any = LigerFusedLinearJSDLoss(0.0, 1.0, beta=BETAS[divergence], compiled=False)
    labels = torch.zeros(len(inputs.hidden), dtype=torch.long, device=inputs.hidden.device)
    return loss(inputs.hidden, inputs.weight, inputs.teacher_hidden, inputs.teacher_weight, labels)


RIVALS = {"TRL": trl, "Liger": liger}
