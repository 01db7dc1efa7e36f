"""What a shadow says its passes hold is what the modules themselves hold."""

import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig
from transformers.models.gpt2 import GPT2LMHeadModel
from transformers.models.llama import LlamaForCausalLM

from tutelage.core.errors import ModelError
from tutelage.models.adapter import adapted
from tutelage.models.cache import STEP, Block
from tutelage.models.causal import Causal
from tutelage.models.cost import cost
from tutelage.models.shadow import Shadow, grown

SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4)
LLAMA = LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True)
GPT2 = GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
GRID = (3, 40, False)


def saved(causal, grid):
    """Bytes that a real forward pass saves for its backward pass, each storage once, weights aside."""
    rows, width, packed = grid
    known = {t.untyped_storage().data_ptr() for t in (*causal.model.parameters(), *causal.model.buffers())}
    found = {}

    def keep(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    ids = torch.zeros(rows, width, dtype=torch.long)
    mask = torch.ones((rows, 1, width, width) if packed else (rows, width), dtype=torch.bool if packed else torch.long)
    if not packed:
        mask[0, ..., -1] = 0  # as rows of different lengths have it
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        hidden = causal.hidden({"input_ids": ids, "attention_mask": mask, "position_ids": torch.zeros_like(ids)})
        keep(hidden)
    return sum(s.nbytes() for key, s in found.items() if key not in known)


@pytest.mark.parametrize("config, build", [(LLAMA, LlamaForCausalLM), (GPT2, GPT2LMHeadModel)], ids=["llama", "gpt2"])
@pytest.mark.parametrize("grid", [GRID, (2, 40, True)], ids=["rows", "packed"])
def test_what_a_pass_keeps(config, build, grid):
    torch.manual_seed(0)
    real, shadow = Causal("real", build(config)), Shadow(config)
    passes = shadow.passes(grid, moves=True)
    assert passes.kept == pytest.approx(saved(real, grid), rel=0.02)
    num = sum(p.numel() for p in real.model.parameters())
    assert shadow.num_trained == num and shadow.weight_bytes == 4 * num
    assert passes.back >= passes.kept and shadow.tied
    # gradients of the body: 4 bytes a parameter, those of the head are the loss's
    assert passes.back >= 4 * num
    assert shadow.passes(grid, moves=False).read < passes.kept / 2


def test_recomputing_keeps_little_and_half_precision_half():
    shadow = Shadow(LLAMA)
    plain = shadow.passes(GRID, moves=True)
    assert shadow.passes(GRID, moves=True, short=True).kept < plain.kept / 4
    assert shadow.passes(GRID, moves=True, half=True).kept < plain.kept
    assert shadow.passes((6, 40, False), moves=True).kept == pytest.approx(2 * plain.kept, rel=0.02)
    # where gradients are there already, new ones are added and go
    assert shadow.passes(GRID, moves=True, again=True).back < plain.back


def test_an_adapter_and_frozen_names():
    shadow = Shadow(LLAMA, rank=4)
    real = adapted(Causal("real", LlamaForCausalLM(LLAMA)), rank=4)
    assert shadow.num_trained == sum(p.numel() for n, p in real.model.named_parameters() if ".lora_" in n)
    assert not shadow.head_trains
    assert shadow.passes(GRID, moves=True).back < Shadow(LLAMA).passes(GRID, moves=True).back
    frozen = Shadow(LLAMA, freeze=("embed",))
    assert frozen.num_trained == Shadow(LLAMA).num_trained - frozen.num_head


def test_counts_agree_with_those_of_the_configuration():
    shadow, known = Shadow(LLAMA), cost(LLAMA)
    assert shadow.cache_values == known.cache_values
    rows, width, units = 2, 10, 7
    pairs = rows * width * (width + 1) // 2
    exact = rows * width * known.body_flops + 2 * pairs * known.attention_flops + units * known.head_flops
    assert shadow.flops(rows, width, units) == pytest.approx(exact, rel=0.03)
    assert Shadow(LLAMA, bits=8).weight_bytes < 0.5 * shadow.weight_bytes
    assert Shadow(LLAMA, "bfloat16").weight_bytes == shadow.weight_bytes // 2


def test_an_encoder_has_no_head_and_others_are_refused():
    sizes = dict(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    shadow = Shadow(BertConfig(**sizes))
    assert shadow.num_head == 0 and not shadow.head_trains and shadow.passes((2, 9, False), moves=True).kept > 0
    from transformers import T5Config

    with pytest.raises(ModelError, match="t5"):
        Shadow(T5Config())


@pytest.mark.parametrize("length, room", [(5, 1), (70, 200), (300, 64), (300, 90)])
def test_buffers_grow_as_they_are_said_to(length, room):
    block = Block()
    one = torch.zeros(1, 1, 1, 2)
    block.update(one.expand(1, 1, length, 2), one.expand(1, 1, length, 2))
    for _ in range(room):
        block.update(one, one)
    assert grown(length, room, STEP) == block._buffers[0].shape[2]
