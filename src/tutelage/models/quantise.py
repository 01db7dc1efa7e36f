"""A frozen model in eight bits: a teacher that takes a quarter of the memory."""

from __future__ import annotations

import logging
import warnings

import torch
from torch import nn

from ..core.errors import ModelError, missing_extra
from .causal import Causal


def quantised(causal: Causal) -> Causal:
    """The same model with the weights of its blocks' linear maps as int8, a scale a row; in place.

    Activations stay in float: ``y = (x W_8^T) * scale``. Embedding and head stay as they are, because losses read the
    head's rows themselves. It cannot train.

    Args:
        causal: A model in float32 or bfloat16.

    Raises:
        MissingExtra: torchao is not installed.
        ModelError: There is no linear map to quantise.
    """
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    logging.getLogger("torchao").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise missing_extra("A model in eight bits", "torchao", "quantise") from None
    inside = {id(m) for block in causal.layers for m in block.modules() if isinstance(m, nn.Linear)}
    if not inside:
        raise ModelError(
            f"model {causal.name!r}",
            got="blocks without linear maps",
            expected="a model of nn.Linear maps",
            remedy="Leave bits out: this architecture cannot be quantised here.",
        )
    causal.model.requires_grad_(False).eval()
    with torch.no_grad():
        quantize_(causal.model, Int8WeightOnlyConfig(), filter_fn=lambda module, _: id(module) in inside)
    # what was stored of the whole model is not what this one says
    causal.facts |= {"bits": 8, "weights_sha256": f"{causal.facts.get('weights_sha256', '')}-int8"}
    return causal


def num_bytes(causal: Causal) -> int:
    """Bytes of all weights as they are held."""
    total = 0
    for weight in {id(p): p for p in causal.model.parameters()}.values():
        held = [
            getattr(weight, name)
            for name in ("qdata", "scale")
            if isinstance(getattr(weight, name, None), torch.Tensor)
        ]
        total += sum(t.numel() * t.element_size() for t in held or [weight])
    return total
