"""Products of a few rows with a large matrix, as generation makes them: one token a row, all weights read once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..core.scores import FEW, few_rows


@contextmanager
def reading_weights_once(model: nn.Module) -> Iterator[None]:
    """While it is in force, linear layers on a processor multiply up to ``FEW`` rows the other way round.

    ``(W x^T)^T`` is ``x W^T``; the library's own routine for the latter copies the weight into blocks at each call,
    which costs two to four times what reading it does. Results agree to rounding; there is no gradient.
    """
    layers = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m) and _fits(m)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _fits(layer: nn.Linear) -> bool:
    return layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    if torch.is_grad_enabled() or x.dtype != torch.float32 or not 0 < x.numel() <= FEW * x.shape[-1]:
        return linear(x, layer.weight, layer.bias)
    out = few_rows(x.reshape(-1, x.shape[-1]), layer.weight.T).view(*x.shape[:-1], layer.out_features)
    return out if layer.bias is None else out.add_(layer.bias)
