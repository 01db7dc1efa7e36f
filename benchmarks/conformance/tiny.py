"""Tiny models, a tokenizer of whole words and ragged rows: real classes of transformers, random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from .asked import Row, Scene

SIZE, START, END = 40, 1, 2
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
COMMON = dict(
    hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    initializer_range=0.2, bos_token_id=START, eos_token_id=END, pad_token_id=END,
)  # fmt: skip
# The cap and the scale are strong enough to be seen: a loss that leaves them out is of another model.
FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {"head_dim": 8, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    ),
    "cohere": (CohereConfig, CohereForCausalLM, {"logit_scale": 0.25}),
}


def model(family: str, seed: int, layers: int, size: int = SIZE, **more: Any) -> torch.nn.Module:
    """A model of random weights in float32."""
    config, kind, own = FAMILIES[family]
    torch.manual_seed(seed)
    return kind(config(vocab_size=size, num_hidden_layers=layers, attn_implementation="eager", **COMMON, **own, **more))


def pair(scene: Scene, dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Student and teacher of a scene; the same weights each time."""
    student = model(scene.family, 1, 1)
    teacher = model(scene.family, 2, 2, SIZE + scene.teacher_extra, attention_dropout=scene.dropout)
    return student.to(dtype), teacher.to(dtype)


def tokenizer() -> PreTrainedTokenizerFast:
    """Words ``w3`` to ``w39``; the end of the text is also what pads, as in many released tokenizers."""
    words = {"<unk>": 0, "<s>": START, "</s>": END, **{f"w{i}": i for i in range(3, SIZE)}}
    inner = Tokenizer(WordLevel(words, "<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    made.chat_template = TEMPLATE
    made.model_max_length = 64
    return made


def spelled(ids: tuple[int, ...]) -> str:
    """The words of some ids."""
    return " ".join(f"w{i}" for i in ids)


def rows(count: int = 4, seed: int = 0) -> tuple[Row, ...]:
    """Rows of very different lengths, so that a mean of means is far from the mean."""
    g = torch.Generator().manual_seed(seed)

    def words(number: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, SIZE, (number,), generator=g).tolist())

    return tuple(Row(words(2 + (3 * i) % 5), (*words(1 + 4 * i), END)) for i in range(count))


@contextmanager
def watched(student: torch.nn.Module) -> Iterator[dict[str, Tensor]]:
    """Filled with the gradients by parameter name when an optimiser that holds them first steps."""
    found: dict[str, Tensor] = {}
    names = {id(p): name for name, p in student.named_parameters()}

    def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        own = [p for group in optimizer.param_groups for p in group["params"] if id(p) in names]
        if not found:
            found.update({names[id(p)]: p.grad.detach().double().cpu() for p in own if p.grad is not None})

    handle = register_optimizer_step_pre_hook(before)
    try:
        yield found
    finally:
        handle.remove()


def weights(teacher: torch.nn.Module) -> dict[str, Tensor]:
    """A copy, for ``touched``."""
    return {name: p.clone() for name, p in teacher.state_dict().items()}


def touched(teacher: torch.nn.Module, before: Mapping[str, Tensor]) -> bool:
    """Whether a teacher has gradients or other weights than before."""
    moved = any(not torch.equal(p, before[name]) for name, p in teacher.state_dict().items())
    return moved or any(p.grad is not None for p in teacher.parameters())
