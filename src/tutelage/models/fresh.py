"""Models of an architecture that is at hand, with weights that are drawn."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from ..core.errors import SettingError
from .body import Body
from .build import AnyBody, bare_body, weights_of


def redrawn(causal: AnyBody, seed: int) -> AnyBody:
    """A model of the same class and configuration, its weights drawn as the class draws them.

    Args:
        causal: Where architecture, tokenizer, dtype and device come from.
        seed: Of the draw, which leaves the global generator as it was.

    Raises:
        ModelError: An adapter is wrapped around it.
    """
    weights_of(causal)
    inner: Any = causal.inner
    like = next(inner.parameters())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = type(inner)(copy.deepcopy(inner.config), **bare_body(type(inner)))
    model.to(dtype=like.dtype, device=like.device).eval()
    if hasattr(inner, "generation_config"):
        model.generation_config = copy.deepcopy(inner.generation_config)
    return type(causal)(causal.name, model, causal.tokenizer, {"weights": f"drawn, seed {seed}"}, size=causal.size)


@torch.no_grad()
def between(one: AnyBody, other: Body, away: float) -> AnyBody:
    """``((1 - a) one + a other) / sqrt(a^2 + (1 - a)^2)``, weight by weight: of two draws, a draw of the same variance.

    Weights that are the same in both (norms that begin as 1, biases that begin as 0) stay as they are, and buffers are
    those of ``one``.

    Args:
        one: The model at a = 0.
        other: The model at a = 1, of the same shapes.
        away: a, in [0, 1].

    Source: arXiv:2302.12091.
    """
    if not 0 <= away <= 1:
        raise SettingError("between.away", got=str(away), expected="a share in [0, 1]", remedy="0.3 is near.")
    made = copy.deepcopy(one)
    theirs = dict(other.inner.named_parameters())
    scale = math.sqrt(away**2 + (1 - away) ** 2)
    for name, own in made.inner.named_parameters():
        if not torch.equal(own, theirs[name]):
            own.mul_((1 - away) / scale).add_(theirs[name].to(own), alpha=away / scale)
    return made
