"""A teacher in eight bits: close to itself, a quarter of the size, and never trained."""

import pytest
import torch

from tutelage.core.errors import MissingExtra, ModelError
from tutelage.models.quantise import num_bytes, quantised

torchao = pytest.importorskip("torchao", reason="extra 'quantise' is not installed")
VIEW = {"input_ids": torch.arange(3, 43)[None]}


def big(new_causal):
    return new_causal("teacher", seed=1, hidden_size=128, intermediate_size=256)


def test_it_says_nearly_the_same_in_a_quarter_of_the_bytes(new_causal):
    plain, small = big(new_causal), quantised(big(new_causal))
    with torch.no_grad():
        one, other = (c.head.squash(c.head.raw(c.hidden(VIEW)[0])).log_softmax(-1) for c in (plain, small))
    kl = (one.exp() * (one - other)).sum(-1).mean()
    assert 0 < float(kl) < 2e-2
    blocks = sum(p.numel() for b in plain.layers for p in b.parameters())
    rest = plain.num_parameters - blocks
    assert num_bytes(plain) == 4 * plain.num_parameters
    assert num_bytes(small) < 4 * rest + 1.1 * blocks + 1e4


def test_each_map_is_within_half_a_step_of_its_rows(new_causal):
    plain, small = big(new_causal), quantised(big(new_causal))
    weight, near = plain.layers[0].mlp.down_proj.weight, small.layers[0].mlp.down_proj.weight.dequantize()
    step = weight.abs().amax(1, keepdim=True) / 127
    assert bool(((weight - near).abs() <= 0.52 * step).all()) and not torch.equal(weight, near)


def test_head_and_embedding_stay_and_nothing_trains(new_causal):
    plain, small = big(new_causal), quantised(big(new_causal))
    assert torch.equal(plain.head.weight, small.head.weight)
    assert not any(p.requires_grad for p in small.model.parameters())


def test_without_the_extra_it_is_named(new_causal, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(MissingExtra, match="quantise"):
        quantised(big(new_causal))


def test_nothing_to_quantise(new_causal):
    model = big(new_causal)
    for block in model.layers:
        for name, module in list(block.named_modules()):
            if isinstance(module, torch.nn.Linear):
                parent = block.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], torch.nn.Identity())
    with pytest.raises(ModelError, match="linear maps"):
        quantised(model)
