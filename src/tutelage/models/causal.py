"""A causal language model as the system sees it: bodies run, heads wait."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import View
from ..core.errors import ModelError
from ..core.scores import Head, Lazy, Scores
from .body import Body, gather, resting

__all__ = ["Causal", "resting"]


class Causal(Body):
    """A decoder-only model, its tokenizer and the facts of where it came from.

    Its module is a transformers ``...ForCausalLM``, or a peft model around one. Beside what every body gives it has the
    field ``next``: lazy scores over the hidden states after the final norm at the trained units; no head is applied.
    """

    engine: Any = None
    """What writes in its place (``models.engine.Engine``), or None."""

    @property
    def body(self) -> Any:
        """Everything before the head, final norm included."""
        body = self.inner.base_model
        if body is self.inner:
            raise ModelError(
                f"model {self.name!r}",
                got=f"{type(self.inner).__name__}, which has no body of its own",
                expected="a model made of a body and a head",
                remedy="Use a ...ForCausalLM class of transformers.",
            )
        return body

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer: the generation config's, else the config's, else the tokenizer's."""
        for holder in (getattr(self.inner, "generation_config", None), self.config, self.tokenizer):
            found = getattr(holder, "eos_token_id", None)
            if found is not None:
                return tuple(int(i) for i in (found if isinstance(found, (list, tuple)) else (found,)))
        return ()

    @property
    def head(self) -> Head:
        """The map from hidden states to the vocabulary, over the model's own tensors.

        ``logits = cap * tanh(scale * (h W^T + b) / cap)``, weight Float[V D].
        """
        module = self.inner.get_output_embeddings()
        if module is None:
            raise ModelError(
                f"model {self.name!r}",
                got=f"{type(self.inner).__name__}, which has no output embeddings",
                expected="a linear head over the vocabulary",
                remedy="Use a ...ForCausalLM class of transformers.",
            )
        module, low = _unwrap_head(module, self.name)
        scale = getattr(self.config, "logit_scale", None)
        divisor = getattr(self.config, "logits_scaling", None)
        factor = float(scale) if scale is not None else 1.0 / float(divisor) if divisor is not None else 1.0
        cap = getattr(self.config, "final_logit_softcapping", None)
        return Head(
            module.weight,
            getattr(module, "bias", None),
            scale=factor,
            cap=None if cap is None else float(cap),
            size=self.size,
            low=low,
        )

    def fields(self) -> frozenset[str]:
        """The fields that ``predict`` gives."""
        return super().fields() | {"next"}

    def _scores(self, hidden: Tensor, view: View, wants: frozenset[str]) -> dict[str, Scores | Tensor]:
        return {"next": Lazy(gather(hidden, view.at), self.head)} if "next" in wants else {}

    @torch.no_grad()
    def check_head(self) -> None:
        """Compare head over hidden states with the model's own logits on a few tokens.

        Raises:
            ModelError: They differ: the architecture computes its logits in a way the head does not know, and every
                loss would be of another model.
        """
        head = self.head
        count = min(16, head.weight.shape[0])
        ids = torch.arange(count, device=self.device)[None] * (head.weight.shape[0] // count)
        with resting(self.model):
            own = self.inner(input_ids=ids, use_cache=False).logits[0].float()
            ours = head.squash(head.raw(self.hidden({"input_ids": ids})[0]))
        own = own[:, : head.num_categories]
        # the model rounds its logits to its own precision; ours are float32
        room = 16 * torch.finfo(head.weight.dtype).eps * max(1.0, float(own.abs().max()))
        worst = float((own - ours).abs().max())
        if not worst <= max(room, 1e-4):
            raise ModelError(
                f"head of model {self.name!r}",
                got=f"logits up to {worst:.3g} away from the model's own",
                expected="the same logits from hidden states and head",
                remedy=f"{type(self.inner).__name__} computes its logits in a way that is not known here; use another.",
            )


def _unwrap_head(module: Any, name: str) -> tuple[Any, tuple[tuple[Tensor, Tensor, float], ...]]:
    """The linear map inside an adapter, and the adapter's low-rank pairs."""
    saved = getattr(module, "modules_to_save", None)
    if saved is not None and len(saved):
        return saved[module.active_adapters[0]], ()
    if not hasattr(module, "lora_A") or not hasattr(module, "get_base_layer"):
        return module, ()
    base, pairs = module.get_base_layer(), []
    if module.merged or module.disable_adapters:
        return base, ()
    for adapter in module.active_adapters:
        if adapter not in module.lora_A:
            continue
        if getattr(module, "use_dora", {}).get(adapter) or module.lora_dropout[adapter].__class__ is not nn.Identity:
            raise ModelError(
                f"head of model {name!r}",
                got="an adapter on the head with dropout or DoRA",
                expected="a plain low-rank adapter, or none, on the head",
                remedy="Leave lm_head out of target_modules, or use lora_dropout=0 without DoRA.",
            )
        pairs.append((module.lora_A[adapter].weight, module.lora_B[adapter].weight, float(module.scaling[adapter])))
    return base, tuple(pairs)
