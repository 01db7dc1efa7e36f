"""Tiny real models and a fake run for the evaluation's tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from tutelage.core.record import Piece, Record
from tutelage.data.collate import Collate
from tutelage.models.causal import Causal


def _load(name):
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"evaluation_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake_run():
    """The function that writes a realistic run folder."""
    return _load("fake_run").fake_run


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level tokenizer with digits, words and special tokens of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")


def tiny(name, tokenizer, seed, layers):
    """A random Llama of 32 hidden channels, in train mode, with dropout."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, attention_dropout=0.5, tie_word_embeddings=True,
        initializer_range=0.3, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    return Causal(name, LlamaForCausalLM(config).train(), tokenizer)


@pytest.fixture
def pair(tokenizer):
    """A teacher and a student with weights of their own."""
    return tiny("teacher", tokenizer, 0, 3), tiny("student", tokenizer, 1, 2)


@pytest.fixture(scope="session")
def records():
    """Seven rows of different lengths, one of them without a trained piece."""
    rows = [
        Record(f"r{i}", (Piece(f"Q: {i} and {i}? "), Piece(f"It is {2 * i}.\n#### {2 * i}" + "!" * i, trains=True)))
        for i in range(6)
    ]
    return [*rows[:3], Record("bare", (Piece("Nothing here trains."),)), *rows[3:]]


@pytest.fixture(scope="session")
def collate(tokenizer):
    """The one place that shifts and pads."""
    return Collate(tokenizer, 96)
