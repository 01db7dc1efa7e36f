"""Costs from a configuration equal what the modules hold and do."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from tutelage.core.errors import ModelError, UnknownName
from tutelage.models.cost import cost

SMALL = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "family, more",
    [
        ("llama", {"num_key_value_heads": 2}),
        ("llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True, "head_dim": 16}),
        ("mistral", {"num_key_value_heads": 1}),
        ("qwen2", {"num_key_value_heads": 2}),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
        ("smollm3", {"num_key_value_heads": 2, "pad_token_id": 0}),
    ],
)
def test_parameters_and_flops(family: str, more: dict, tied: bool) -> None:
    config = AutoConfig.for_model(family, **{**SMALL, **more}, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    found = cost(config)
    assert found.num_parameters == sum(p.numel() for p in model.parameters())
    assert found.num_head_parameters == (0 if tied else model.lm_head.weight.numel())
    assert found.weight_bytes("bfloat16") == 2 * found.num_parameters
    length = 10
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = model(torch.zeros(1, length, dtype=torch.long), use_cache=True)
    # the eager attention forms all pairs, of which a causal model needs half
    pairs = length * length - length * (length + 1) // 2
    assert counter.get_total_flops() == found.flops(length) + pairs * found.attention_flops
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in out.past_key_values.layers)
    assert kept == length * found.cache_values
    assert found.cache_bytes("float16") == 2 * found.cache_values
    assert found.flops(length, scored=2) == found.flops(length) - 8 * found.head_flops


def test_what_is_not_known() -> None:
    with pytest.raises(ModelError, match="gpt2"):
        cost(GPT2Config())
    with pytest.raises(UnknownName, match="float32"):
        cost(AutoConfig.for_model("llama", **SMALL)).weight_bytes("float23")
