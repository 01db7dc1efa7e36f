"""Causal: hidden states, heads, adapters, padding and packing."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tutelage.core.batch import View
from tutelage.core.errors import ModelError, NeedError
from tutelage.models.causal import Causal, resting

SMALL = dict(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    initializer_range=0.3,
    pad_token_id=0,
)
GRID = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
AT = torch.tensor([0, 3, 4, 5, 7])


def foreign() -> dict[str, Causal]:
    torch.manual_seed(0)
    made = {
        "gemma2": Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=2.0)),
        "cohere": CohereForCausalLM(CohereConfig(**{**SMALL, "logit_scale": 0.3})),
        "granite": GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=3.0)),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**SMALL, tie_word_embeddings=False)),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=1)),
    }
    return {name: Causal(name, model.eval()) for name, model in made.items()}


@pytest.mark.parametrize("name", ["gemma2", "cohere", "granite", "qwen2", "gpt2"])
def test_scores_are_the_models_own(name: str) -> None:
    causal = foreign()[name]
    causal.check_head()
    view = View({"input_ids": GRID, "attention_mask": MASK}, AT)
    with torch.no_grad():
        ours = causal.predict(view, frozenset({"next"}))["next"].at(slice(None))
        own = causal.model(input_ids=GRID, attention_mask=MASK).logits.flatten(0, 1)[AT].log_softmax(-1)
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-5)


def test_check_head_catches_logits_made_otherwise(tiny_pair) -> None:
    class Bent(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            self.linear, self.weight = linear, linear.weight

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.linear(hidden) + hidden.sum(-1, keepdim=True).sin() * torch.arange(self.weight.shape[0])

    causal = tiny_pair.teacher
    causal.inner.lm_head = Bent(causal.inner.lm_head)
    with pytest.raises(ModelError, match=r"away from the model's own"):
        causal.check_head()


def test_hidden_fields_are_the_stream(tiny_pair) -> None:
    causal = tiny_pair.teacher
    view = View({"input_ids": GRID, "attention_mask": MASK}, AT)
    wants = frozenset(f"hidden.{k}" for k in range(5))
    with torch.no_grad():
        found = causal.predict(view, wants)
        own = causal.body(input_ids=GRID, attention_mask=MASK, output_hidden_states=True)
    assert set(found) == wants
    for k in range(4):
        torch.testing.assert_close(found[f"hidden.{k}"], own.hidden_states[k].flatten(0, 1)[AT])
    # the library gives the normed stream last; ours is before the norm
    torch.testing.assert_close(causal.body.norm(found["hidden.4"]), own.last_hidden_state.flatten(0, 1)[AT])
    assert not torch.allclose(found["hidden.4"], own.last_hidden_state.flatten(0, 1)[AT])


def test_only_what_is_asked(tiny_pair) -> None:
    view = View({"input_ids": GRID}, AT)
    assert set(tiny_pair.teacher.predict(view, frozenset({"hidden.2"}))) == {"hidden.2"}
    with pytest.raises(NeedError, match=r"hidden\.9"):
        tiny_pair.teacher.predict(view, frozenset({"hidden.9"}))


def test_pooled_is_the_mean_of_real_tokens(tiny_pair) -> None:
    causal = tiny_pair.student
    with torch.no_grad():
        found = causal.predict(View({"input_ids": GRID, "attention_mask": MASK}, AT), frozenset({"pooled"}))["pooled"]
        alone = torch.stack([causal.hidden({"input_ids": GRID[i : i + 1, :n]})[0].mean(0) for i, n in ((0, 5), (1, 3))])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)


def packed(rows: list[list[int]]) -> View:
    length = sum(map(len, rows))
    mask = torch.zeros(1, 1, length, length, dtype=torch.bool)
    place = 0
    for row in rows:
        end = place + len(row)
        mask[0, 0, place:end, place:end] = torch.ones(len(row), len(row)).tril().bool()
        place = end
    ids = torch.tensor([[i for row in rows for i in row]])
    position = torch.tensor([[t for row in rows for t in range(len(row))]])
    return View({"input_ids": ids, "position_ids": position, "attention_mask": mask}, torch.arange(length))


def test_padding_side_and_packing_do_not_matter(tiny_pair) -> None:
    causal, rows = tiny_pair.teacher, [[5, 6, 7, 8, 9], [10, 11, 12]]
    left_ids = torch.tensor([rows[0], [0, 0, *rows[1]]])
    left_mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])
    left = View(
        {
            "input_ids": left_ids,
            "attention_mask": left_mask,
            "position_ids": (left_mask.cumsum(1) - 1).clamp(min=0),
        },
        torch.tensor([0, 1, 2, 3, 4, 7, 8, 9]),
    )
    right = View({"input_ids": GRID, "attention_mask": MASK}, torch.arange(8))
    wants = frozenset({"next", "hidden.1"})
    results = []
    for view in (right, left, packed(rows)):
        with torch.no_grad():
            found = causal.predict(view, wants)
        results.append((found["next"].at(slice(None)), found["hidden.1"]))
    for scores, stream in results[1:]:
        torch.testing.assert_close(scores, results[0][0], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(stream, results[0][1], atol=2e-5, rtol=1e-5)
    with pytest.raises(NeedError, match="pack=False"):
        causal.predict(packed(rows), frozenset({"pooled"}))


def gradients(causal: Causal) -> list[torch.Tensor]:
    causal.model.zero_grad()
    view = View({"input_ids": GRID, "attention_mask": MASK}, AT)
    found = causal.predict(view, frozenset({"next", "hidden.1"}))
    (found["next"].at(slice(None))[:, 3].sum() + found["hidden.1"].square().sum()).backward()
    return [p.grad.clone() for p in causal.model.parameters()]


def test_gradient_checkpointing_changes_nothing(tiny_pair) -> None:
    causal = tiny_pair.student
    causal.model.train()
    plain = gradients(causal)
    causal.model.gradient_checkpointing_enable()
    for a, b in zip(plain, gradients(causal), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_gives_scores_near_the_exact_ones(tiny_pair) -> None:
    causal, view = tiny_pair.student, View({"input_ids": GRID, "attention_mask": MASK}, AT)
    with torch.no_grad():
        exact = causal.predict(view, frozenset({"next"}))["next"].at(slice(None))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = causal.predict(view, frozenset({"next"}))["next"]
        rough = scores.at(slice(None))
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.3


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["q_proj", "lm_head"]])
def test_adapters(new_causal, targets: list[str]) -> None:
    peft = pytest.importorskip("peft")
    base = new_causal(tie_word_embeddings=False)
    wrapped = peft.get_peft_model(base.model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    causal = Causal("adapted", wrapped, base.tokenizer)
    view = View({"input_ids": GRID, "attention_mask": MASK}, AT)
    with torch.no_grad():
        ours = causal.predict(view, frozenset({"next"}))["next"].at(slice(None))
        own = wrapped(input_ids=GRID, attention_mask=MASK).logits.flatten(0, 1)[AT].log_softmax(-1)
        causal.check_head()
        with wrapped.disable_adapter():
            off = causal.predict(view, frozenset({"next"}))["next"].at(slice(None))
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-5)
    assert (ours - off).abs().max() > 1e-3
    causal.predict(view, frozenset({"next"}))["next"].at(slice(None)).square().sum().backward()
    moved = [n for n, p in wrapped.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("lora_B" in n for n in moved)
    assert ("lm_head" in targets) == any("lm_head.lora_A" in n for n in moved)


def test_head_adapter_with_dropout_is_refused(new_causal) -> None:
    peft = pytest.importorskip("peft")
    base = new_causal(tie_word_embeddings=False)
    config = peft.LoraConfig(r=2, target_modules=["lm_head"], lora_dropout=0.5)
    causal = Causal("adapted", peft.get_peft_model(base.model, config))
    with pytest.raises(ModelError, match="lm_head"):
        _ = causal.head


def test_packed_rows_beyond_a_window_are_refused() -> None:
    gemma = foreign()["gemma2"]
    gemma.config.sliding_window = 4
    with pytest.raises(NeedError, match="window of 4"):
        gemma.predict(packed([[1, 2, 3], [4, 5, 6]]), frozenset({"next"}))


def test_resting_gives_each_module_its_mode_back(tiny_pair) -> None:
    model = tiny_pair.teacher.model
    model.train()
    model.model.layers[0].eval()
    with resting(model):
        assert not any(m.training for m in model.modules())
    assert model.training
    assert not model.model.layers[0].training
    assert model.model.layers[1].training


def test_stop_ids_prefer_the_generation_config(tiny_pair) -> None:
    causal = tiny_pair.teacher
    causal.inner.generation_config.eos_token_id = [2, 0]
    assert causal.stop_ids == (2, 0)
    causal.inner.generation_config.eos_token_id = None
    causal.config.eos_token_id = None
    assert causal.stop_ids == (causal.tokenizer.eos_token_id,)


def test_facts_of_size(tiny_pair) -> None:
    causal = tiny_pair.teacher
    assert (causal.num_layers, causal.hidden_size, causal.max_positions) == (4, 32, 256)
    assert causal.num_parameters == sum(p.numel() for p in set(causal.model.parameters()))
    blocks = {f"{what}.{k}" for what in ("hidden", "states", "attention") for k in range(5)} - {"attention.0"}
    assert causal.fields() == {"next", "pooled"} | blocks
    assert repr(causal).startswith("Causal('teacher', 4 layers")
