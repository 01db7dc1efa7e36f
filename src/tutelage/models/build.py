"""Models from a configuration and weights that are at hand."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers.initialization import no_init_weights

from ..core.errors import ModelError
from .body import Body

AnyBody = TypeVar("AnyBody", bound=Body)


def changed_config(causal: Body, changes: Mapping[str, Any]) -> Any:
    """A copy of the model's configuration with some fields set."""
    config = copy.deepcopy(causal.inner.config)
    text = config.get_text_config(decoder=True)
    for name, value in changes.items():
        setattr(text, name, value)
    return config


def build(name: str, like: AnyBody, config: Any, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> AnyBody:
    """A new model of the same class; its tensors are copies and share no memory with ``like``.

    Args:
        name: The new model's name.
        like: Where class, tokenizer, generation config, dtype and device come from.
        config: The new configuration.
        weights: All its weights by name.
        facts: What is known of it.

    Raises:
        ModelError: Weights are missing, left over or of another shape.
    """
    like_weight = like.inner.get_input_embeddings().weight
    with no_init_weights():
        model = type(like.inner)(config, **bare_body(type(like.inner))).to(dtype=like_weight.dtype)
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ModelError(
            f"model {name!r}",
            got=lines[min(1, len(lines) - 1)].strip(),
            expected="weights that fit the configuration",
            remedy="This architecture keeps more per block than is known here; choose a Llama, Qwen or Mistral model.",
        ) from error
    model.tie_weights()
    model.generation_config = copy.deepcopy(getattr(like.inner, "generation_config", None))
    model.to(like_weight.device).eval()
    return type(like)(name, model, copy.deepcopy(like.tokenizer), facts, size=like.size)


def bare_body(architecture: Any) -> dict[str, bool]:
    """What builds an encoder without the pooler that follows its states: nothing here reads it."""
    return (
        {"add_pooling_layer": False}
        if "add_pooling_layer" in inspect.signature(architecture.__init__).parameters
        else {}
    )


def weights_of(causal: Body) -> dict[str, Tensor]:
    """The model's weights by name, detached; adapters must be merged first.

    Raises:
        ModelError: An adapter is wrapped around it.
    """
    if causal.model is not causal.inner:
        raise ModelError(
            f"model {causal.name!r}",
            got="a model with an adapter around it",
            expected="plain weights",
            remedy="Merge the adapter first (merge_and_unload).",
        )
    with torch.no_grad():
        return {k: v.detach() for k, v in causal.inner.state_dict().items()}
