"""Low-rank adapters: a student that is its own base model, plus a little."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..core.errors import ModelError, SettingError, missing_extra
from .causal import Causal

MARKS = (".lora_", ".modules_to_save.", ".trainable_tokens_")
"""What stands in the names of the parameters that an adapter adds."""


def adapted(
    causal: Causal, *, rank: int, alpha: float | None = None, targets: Sequence[str] = (), seed: int = 0
) -> Causal:
    """The same model with a low-rank pair beside each linear map: ``W + (alpha / rank) B A``, B = 0 at the start.

    Args:
        causal: The model. Its weights are shared, not copied, and do not train; use what is returned in its place.
        rank: >= 1, the rows of A.
        alpha: The scale's numerator; twice the rank by default.
        targets: Ends of the names of the modules that get a pair; all linear maps of the blocks by default.
        seed: A is drawn from it.

    Raises:
        MissingExtra: peft is not installed.
        SettingError: A rank below 1.
        ModelError: There is an adapter already, or a target that no module is named.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise missing_extra("A model with a low-rank adapter", "peft", "lora") from None
    if rank < 1:
        raise SettingError("lora.rank", got=str(rank), expected="a whole number >= 1", remedy="16 to 64 is usual.")
    if has_adapter(causal):
        raise ModelError(
            f"model {causal.name!r}",
            got="a model with an adapter around it",
            expected="plain weights",
            remedy="Merge the adapter first.",
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]
        target_modules=list(targets) or "all-linear",
        lora_dropout=0.0,
        bias="none",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = get_peft_model(causal.inner, config)
        except ValueError as error:
            raise ModelError(
                f"adapter of model {causal.name!r}",
                got=str(error).splitlines()[0][:200],
                expected="targets that are ends of the names of linear modules",
                remedy="E.g. targets = ['q_proj', 'v_proj'], or none for all of the blocks.",
            ) from error
    facts = {**causal.facts, "adapter": {"rank": rank, "alpha": config.lora_alpha}}
    return Causal(causal.name, model.eval(), causal.tokenizer, facts, causal.size)


def has_adapter(causal: Any) -> bool:
    """Whether an adapter is wrapped around the model."""
    return hasattr(getattr(causal, "model", None), "disable_adapter")


def trains(module: nn.Module, name: str) -> bool:
    """Whether a parameter may train: of a model with an adapter, those that the adapter added, else all."""
    return not hasattr(module, "disable_adapter") or any(mark in f".{name}" for mark in MARKS)


@contextmanager
def bare(causal: Causal) -> Iterator[None]:
    """The model without its adapter inside the block; afterwards, also after an exception, everything is as before."""
    flags = [(p, p.requires_grad) for p in causal.model.parameters()]
    module: Any = causal.model
    try:
        with module.disable_adapter():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def merged(causal: Causal) -> Causal:
    """Plain weights with the adapter added to them, in a copy; a model without one as it is."""
    if not has_adapter(causal):
        return causal
    module: Any = copy.deepcopy(causal.model)
    return Causal(causal.name, module.merge_and_unload(), causal.tokenizer, causal.facts, causal.size)
