"""A causal language model as the system sees it: bodies run, heads wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import View
from ..core.errors import ModelError, NeedError
from ..core.scores import Head, Lazy, Scores


class Causal:
    """A decoder-only model, its tokenizer and the facts of where it came from.

    Args:
        name: A short name for messages and tables.
        model: A transformers ``...ForCausalLM`` module, or a peft model around one.
        tokenizer: Its tokenizer, or None for a model that only reads ids.
        facts: What is known of it (source, hashes, licence).
        size: How many of the head's first ids are real; None means all. ``agree`` sets it for padded heads.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        tokenizer: Any = None,
        facts: Mapping[str, Any] | None = None,
        size: int | None = None,
    ) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.facts: dict[str, Any] = dict(facts or {})
        self.size = size

    def __repr__(self) -> str:
        return f"Causal({self.name!r}, {self.num_layers} layers, {self.num_parameters / 1e6:.1f}M parameters)"

    @property
    def inner(self) -> Any:
        """The transformers model, without what is wrapped around it."""
        unwrap = getattr(self.model, "get_base_model", None)
        return self.model if unwrap is None else unwrap()

    @property
    def config(self) -> Any:
        """The text configuration."""
        return self.inner.config.get_text_config(decoder=True)

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
    def layers(self) -> nn.ModuleList:
        """The blocks, in order."""
        for path in ("layers", "h", "blocks", "decoder.layers"):
            module: Any = self.body
            for part in path.split("."):
                module = getattr(module, part, None)
            if isinstance(module, nn.ModuleList):
                return module
        raise ModelError(
            f"model {self.name!r}",
            got=f"{type(self.body).__name__}, whose blocks are not in a known place",
            expected="a body with .layers or .h",
            remedy="Read only the fields 'next' and 'pooled' of this model.",
        )

    @property
    def num_layers(self) -> int:
        """The number of blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        """The width of the stream."""
        return int(self.config.hidden_size)

    @property
    def max_positions(self) -> int | None:
        """The longest context, or None where the architecture sets none."""
        longest = getattr(self.config, "max_position_embeddings", None)
        return None if longest is None else int(longest)

    @property
    def num_parameters(self) -> int:
        """Parameters, tied ones once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the first parameter is."""
        return next(self.model.parameters()).device

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
        return frozenset({"next", "pooled", *(f"hidden.{k}" for k in range(self.num_layers + 1))})

    def predict(self, view: View, wants: frozenset[str]) -> dict[str, Scores | Tensor]:
        """Run the body once and gather what is asked.

        Args:
            view: The batch as this model reads it.
            wants: Some of ``fields()``: ``next`` (lazy scores over the hidden states after the final norm at
                ``view.at``; the head is not applied), ``hidden.K`` (the stream after block K, 0 is the embedding,
                before the final norm: Float[U D]), ``pooled`` (mean of the final hidden states over each row's real
                tokens: Float[R D]).

        Raises:
            NeedError: A field that is not given, or ``pooled`` of packed rows.
        """
        blocks = self._check(view, wants)
        with _recorded(self, blocks) as stream:
            hidden = self.hidden(view.inputs)
        out: dict[str, Scores | Tensor] = {f"hidden.{k}": _gather(h, view.at) for k, h in stream.items()}
        if "next" in wants:
            out["next"] = Lazy(_gather(hidden, view.at), self.head)
        if "pooled" in wants:
            out["pooled"] = _pool(hidden, view.inputs.get("attention_mask"))
        return out

    def hidden(self, inputs: Mapping[str, Tensor], **settings: Any) -> Tensor:
        """Hidden states after the final norm, Float[B T D]; nothing is cached."""
        return self.body(**inputs, use_cache=False, return_dict=True, **settings).last_hidden_state

    def _check(self, view: View, wants: frozenset[str]) -> list[int]:
        foreign = sorted(wants - self.fields())
        if foreign:
            raise NeedError(
                f"model {self.name!r}",
                got=f"a wish for {', '.join(map(repr, foreign))}",
                expected=f"'next', 'pooled' or 'hidden.K' with K from 0 to {self.num_layers}",
                remedy="Ask for a field that this model gives.",
            )
        mask = view.inputs.get("attention_mask")
        packed = mask is not None and mask.dim() == 4
        window = getattr(self.config, "sliding_window", None)
        slides = bool(window) and "sliding_attention" in (getattr(self.config, "layer_types", None) or ())
        wrong = "pooled" if packed and "pooled" in wants else ""
        if packed and slides and mask is not None and mask.shape[-1] > int(window or 0):
            wrong = f"rows longer than its attention window of {window}"
        if wrong:
            raise NeedError(
                f"model {self.name!r}",
                got=f"packed rows and {wrong}",
                expected="one record a row",
                remedy="Collate with pack=False.",
            )
        return sorted(int(w.partition(".")[2]) for w in wants if w.startswith("hidden."))

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


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Dropout off inside the block; every module's own mode comes back after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


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


@contextmanager
def _recorded(causal: Causal, numbers: list[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the stream after the given blocks; 0 is what enters the first."""
    found: dict[int, Tensor] = {}
    hooks = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found[0] = args[0] if args else kwargs["hidden_states"]

    def leave(number: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output

        return hook

    for number in numbers:
        if number == 0:
            hooks.append(causal.layers[0].register_forward_pre_hook(enter, with_kwargs=True))
        else:
            hooks.append(causal.layers[number - 1].register_forward_hook(leave(number)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _gather(grid: Tensor, at: Tensor) -> Tensor:
    return grid.flatten(0, 1).index_select(0, at)


def _pool(hidden: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return hidden.mean(1)
    weight = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
