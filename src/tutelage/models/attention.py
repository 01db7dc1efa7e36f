"""Attention scores: what a query gives each key before the softmax, read off one forward pass.

Fused kernels never form them, and what the library returns beside its plain kernel is the probabilities after dropout,
whose logarithm is -inf where a weight was dropped. So for one call the model's attention is a function of ours, which
computes what the plain kernel computes and keeps the scores on the way; afterwards the model has its own kernel again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from ..core.errors import ModelError, NeedError

NAME = "tutelage_scores"


@dataclass
class Recorder:
    """Scores of some blocks at some places of the grid.

    Args:
        numbers: The blocks, from 1.
        places: Int[P], the queries' places in the flattened grid.
        found: By block, Float[P A T]: -inf at keys that a query does not see.
    """

    numbers: frozenset[int]
    places: Tensor
    found: dict[int, Tensor] = field(default_factory=dict)
    calls: int = 0

    def see(self, scores: Tensor) -> None:
        """Take the scores Float[B A T T] of the next block."""
        self.calls += 1
        if self.calls in self.numbers:
            self.found[self.calls] = scores.transpose(1, 2).flatten(0, 1).index_select(0, self.places)


_at_work: ContextVar[Recorder | None] = ContextVar("attention_recorder", default=None)


@contextmanager
def recorded_scores(inner: Any, numbers: Sequence[int], places: Tensor | None) -> Iterator[dict[int, Tensor]]:
    """Collect the scores of some blocks while the model runs inside; without blocks nothing is switched.

    Args:
        inner: A transformers model.
        numbers: The blocks, from 1.
        places: Int[P], the queries.

    Raises:
        NeedError: The model recomputes its activations, which would then be another kernel's.
        ModelError: The model does not let its attention be replaced.
    """
    if not numbers or places is None:
        yield {}
        return
    if inner.training and any(getattr(m, "gradient_checkpointing", False) for m in inner.modules()):
        raise NeedError(
            "attention fields",
            got="a model that recomputes its activations",
            expected="one that keeps them",
            remedy="Set train.gradient_checkpointing = false, or leave the attention out of the objective.",
        )
    recorder, own = Recorder(frozenset(numbers), places), inner.config._attn_implementation
    token = _at_work.set(recorder)
    try:
        inner.config._attn_implementation = NAME
        yield recorder.found
    finally:
        inner.config._attn_implementation = own
        _at_work.reset(token)
    if len(recorder.found) < len(recorder.numbers):
        raise ModelError(
            f"attention of {type(inner).__name__}",
            got=f"scores of {len(recorder.found)} blocks",
            expected=f"those of blocks {', '.join(map(str, sorted(recorder.numbers)))}",
            remedy="This architecture computes its attention in a way that is not known here; match its states alone.",
        )


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Plain attention over Float[B A T d] queries; the recorder at work sees the scores."""
    if more.get("s_aux") is not None:
        raise ModelError(
            f"attention of {type(module).__name__}",
            got="a sink beside the keys",
            expected="probabilities over keys alone",
            remedy="Match the states of this model, not its attention.",
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    cap = more.get("softcap")
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    # a padding query sees nothing: for it the finite bottom keeps the softmax finite, as in the library
    bottom = torch.finfo(scores.dtype).min
    hidden = torch.zeros((), dtype=torch.bool, device=scores.device)
    if attention_mask is not None:
        mask = attention_mask[..., : key.shape[-2]]
        hidden = ~mask if mask.dtype == torch.bool else mask <= bottom / 2
        if mask.dtype != torch.bool:
            scores = scores + mask.masked_fill(hidden, 0.0)
    recorder = _at_work.get()
    if recorder is not None:
        recorder.see(scores.masked_fill(hidden, -torch.inf))
    weights = (
        scores.masked_fill(hidden, bottom)
        .softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32))
        .to(query.dtype)
    )
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, eager_mask)
