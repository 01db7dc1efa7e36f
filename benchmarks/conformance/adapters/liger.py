"""Liger: its chunked loss in plain PyTorch, and its Triton kernel, which needs an accelerator."""

from __future__ import annotations

import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from torch import Tensor

from ..asked import Heads, NotHere, NotOffered, Scene, Stepped


class Liger:
    """The distillation loss of ``liger_kernel.chunked_loss``."""

    name = "Liger, chunked"
    loss_is = "chunked_loss.LigerFusedLinearJSDLoss(weight_hard_loss=0, weight_soft_loss=1, compiled=False)"
    step_is = "a library of losses: it has no trainer of its own"
    temperature_power = 0
    half_is = "bfloat16 hidden states and heads, outside autocast"

    def loss(self, asked: Heads) -> Tensor:
        """Its soft loss alone."""
        _offered(asked)
        if len(asked.weight) > len(asked.teacher_weight):
            raise NotOffered("only a larger head of the teacher is provided for")
        loss = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=asked.beta, temperature=asked.temperature, compiled=False
        )
        found = loss(
            asked.hidden, asked.weight, asked.teacher_hidden, asked.teacher_weight, asked.labels, asked.bias, None
        )
        return found

    def step(self, scene: Scene) -> Stepped:
        """It trains nothing itself."""
        raise NotOffered(self.step_is)


class LigerTriton(Liger):
    """The fused kernel of ``liger_kernel.transformers``."""

    name = "Liger, Triton"
    loss_is = "transformers.LigerFusedLinearJSD"
    half_is = "bfloat16 hidden states and heads"

    def loss(self, asked: Heads) -> Tensor:
        """On the accelerator, gradients brought back from it."""
        _offered(asked)
        if asked.bias is not None:
            raise NotOffered("it takes no bias")
        if not torch.cuda.is_available():
            raise NotHere("its Triton kernel needs an accelerator")
        from liger_kernel.transformers import LigerFusedLinearJSD

        loss = LigerFusedLinearJSD(jsd_beta=asked.beta, temperature=asked.temperature)
        tensors = (asked.hidden, asked.weight, asked.teacher_hidden, asked.teacher_weight, asked.labels)
        return loss(*(t.cuda() for t in tensors)).cpu()


def _offered(asked: Heads) -> None:
    if asked.top_k:
        raise NotOffered("no loss over a part of the vocabulary")
    if asked.token_weights is not None:
        raise NotOffered("the loss is reduced inside; it takes no weights")


ADAPTERS = (Liger(), LigerTriton())
