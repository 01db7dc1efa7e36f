"""Products of a few rows with a large matrix, as generation makes them: one token a row, all weights read once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from ..core.scores import FEW, few_rows


class FewRows(TorchFunctionMode):
    """While it is in force, linear maps of up to ``FEW`` rows on a processor multiply the other way round.

    ``(W x^T)^T`` is ``x W^T``; the library's own routine for the latter copies the weight into blocks at each call,
    which costs two to four times what reading it does. Results agree to rounding.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is linear and not kwargs and 2 <= len(args) <= 3 and _fits(args[0], args[1]):
            x, weight = args[0], args[1]
            out = few_rows(x.reshape(-1, x.shape[-1]), weight.T).reshape(*x.shape[:-1], weight.shape[0])
            return out if len(args) == 2 or args[2] is None else out + args[2]
        return func(*args, **(kwargs or {}))


def _fits(x: Tensor, weight: Tensor) -> bool:
    on_processor = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    moves = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return on_processor and not moves and weight.dim() == 2 and 0 < x.numel() <= FEW * x.shape[-1]
