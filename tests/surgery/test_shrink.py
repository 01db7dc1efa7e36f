"""Shrink: which blocks and channels stay, and that the student is a model of its own."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tutelage.core.errors import ModelError, SettingError, UnknownName
from tutelage.core.workspace import Slots
from tutelage.models.causal import Causal
from tutelage.models.export import export
from tutelage.surgery.choose import block_influence, even, influence
from tutelage.surgery.shrink import Shrink, cut

ROWS = [[5, 6, 7, 8, 9, 30, 31], [40, 41, 42], [7, 7, 100, 200]]
IDS = torch.tensor([[5, 6, 7, 8]])


def slots(causal: Causal) -> SimpleNamespace:
    return SimpleNamespace(models=Slots("model", {"teacher": causal}))


def shares_memory(a: Causal, b: Causal) -> bool:
    spans = {t.untyped_storage().data_ptr() for t in (*a.model.parameters(), *a.model.buffers())}
    return any(t.untyped_storage().data_ptr() in spans for t in (*b.model.parameters(), *b.model.buffers()))


def test_a_plain_cut_is_the_named_blocks(new_causal) -> None:
    teacher = new_causal(seed=3)
    student = Shrink(layers=(0, 2), refit=False)(slots(teacher), [])
    assert student.num_layers == 2
    body = teacher.body
    with torch.no_grad():
        hidden = body.embed_tokens(IDS)
        place = torch.arange(4)[None]
        for k in (0, 2):
            hidden = body.layers[k](
                hidden, position_embeddings=body.rotary_emb(hidden, place), position_ids=place, attention_mask=None
            )
        expected = teacher.model.lm_head(body.norm(hidden))
        torch.testing.assert_close(student.model(IDS).logits, expected)
    assert [b.self_attn.layer_idx for b in student.layers] == [0, 1]
    assert not shares_memory(teacher, student)
    assert student.facts["kept_layers"] == [0, 2]
    student.check_head()


def test_all_blocks_give_the_same_model(new_causal) -> None:
    teacher = new_causal()
    for settings in (Shrink(layers=4), Shrink(width=1.0), Shrink()):
        assert torch.equal(settings(slots(teacher), ROWS).model(IDS).logits, teacher.model(IDS).logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("width", [None, 0.5])
def test_the_teacher_stays_and_the_student_saves(new_causal, tmp_path: Path, tied: bool, width: float | None) -> None:
    teacher = new_causal(tie_word_embeddings=tied)
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    student = Shrink(layers=2, width=width)(slots(teacher), ROWS)
    assert all(torch.equal(before[k], v) for k, v in teacher.model.state_dict().items())
    assert not any(b._forward_hooks or b._forward_pre_hooks for b in teacher.model.modules())
    assert not shares_memory(teacher, student)
    head, embedding = student.model.lm_head.weight, student.model.get_input_embeddings().weight
    assert (head.data_ptr() == embedding.data_ptr()) == tied
    assert student.config.tie_word_embeddings == tied
    assert all(p.requires_grad for p in student.model.parameters())
    again = AutoModelForCausalLM.from_pretrained(export(student, tmp_path / "s", card={}))
    assert torch.equal(again(IDS).logits, student.model(IDS).logits)
    assert again.config.num_hidden_layers == 2
    assert again.config.hidden_size == (16 if width else 32)


def test_width_fields_and_shapes(new_causal) -> None:
    student = Shrink(width=0.5, refit=False)(slots(new_causal(num_attention_heads=8, num_key_value_heads=4)), ROWS)
    config = student.config
    assert (config.hidden_size, config.intermediate_size) == (16, 32)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 4)
    assert student.layers[0].self_attn.q_proj.weight.shape == (16, 16)
    student.check_head()


def test_width_keeps_what_carries_the_function(new_causal) -> None:
    """Groups, channels and stream channels that are zero go first, and then nothing is lost."""
    teacher = new_causal()
    used = torch.arange(0, 32, 2)
    off = torch.ones(32, dtype=torch.bool)
    off[used] = False
    with torch.no_grad():
        teacher.model.get_input_embeddings().weight[:, off] = 0
        for block in teacher.layers:
            block.self_attn.o_proj.weight[off] = 0
            block.mlp.down_proj.weight[off] = 0
            block.mlp.up_proj.weight[::2] = 0
            block.self_attn.v_proj.weight[8:] = 0
    student = Shrink(width=0.5, refit=False)(slots(teacher), ROWS)
    with torch.no_grad():
        torch.testing.assert_close(student.model(IDS).logits, teacher.model(IDS).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        lambda s: Qwen2ForCausalLM(Qwen2Config(**s, tie_word_embeddings=False)),
        lambda s: Qwen3ForCausalLM(Qwen3Config(**s, head_dim=8)),
    ],
    ids=["qwen2", "qwen3"],
)
def test_other_families(model) -> None:
    torch.manual_seed(0)
    small = dict(vocab_size=262, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
                 num_key_value_heads=2, initializer_range=0.2)  # fmt: skip
    teacher = Causal("other", model(small).eval())
    assert Shrink(layers=2)(slots(teacher), ROWS).num_layers == 2
    thin = Shrink(layers=2, width=0.5)(slots(teacher), ROWS)
    assert thin.hidden_size == 16
    thin.check_head()


def test_blocks_of_several_sorts_keep_their_sort() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
                          num_attention_heads=2, num_key_value_heads=1, head_dim=8, sliding_window=4)  # fmt: skip
    teacher = Causal("gemma", Gemma2ForCausalLM(config).eval())
    assert cut(teacher, (1, 3)).config.layer_types == ["full_attention", "full_attention"]
    assert cut(teacher, (0, 1, 2)).config.layer_types == [config.layer_types[i] for i in (0, 1, 2)]


def test_gpt2_is_cut_but_not_refitted() -> None:
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=4, n_head=2, bos_token_id=1)
    teacher = Causal("gpt2", GPT2LMHeadModel(config).eval())
    assert len(Shrink(layers=2, refit=False)(slots(teacher), ROWS).layers) == 2
    with pytest.raises(ModelError, match=r"mlp\.down_proj.*refit=False"):
        Shrink(layers=2)(slots(teacher), ROWS)
    with pytest.raises(ModelError, match="by layers alone"):
        Shrink(width=0.5, refit=False)(slots(teacher), ROWS)


def test_even_choice() -> None:
    model = SimpleNamespace(num_layers=30)
    for count in range(1, 31):
        kept = even(model, [], count)  # type: ignore[arg-type]
        assert len(set(kept)) == count
        assert list(kept) == sorted(kept)
        assert count == 1 or (kept[0], kept[-1]) == (0, 29)
        if count > 1:
            gaps = {b - a for a, b in pairwise(kept)}
            assert max(gaps) - min(gaps) <= 1


def test_influence_finds_the_blocks_that_do_nothing(new_causal) -> None:
    teacher = new_causal()
    with torch.no_grad():
        for k in (1, 3):
            teacher.layers[k].self_attn.o_proj.weight.mul_(1e-4)
            teacher.layers[k].mlp.down_proj.weight.mul_(1e-4)
    assert influence(teacher, ROWS, 2) == (0, 2)
    found = Shrink(layers=2, by="influence", refit=False)(slots(teacher), ROWS)
    assert found.facts["kept_layers"] == [0, 2]
    torch.testing.assert_close(found.model(IDS).logits, teacher.model(IDS).logits, atol=0.02, rtol=0.01)


def test_influence_against_a_plain_loop(new_causal) -> None:
    teacher = new_causal()
    totals, positions = [0.0] * 4, 0
    for row in ROWS:
        with torch.no_grad():
            stream = [h.double() for h in _raw(teacher, row)]
        positions += len(row)
        for k in range(4):
            for t in range(len(row)):
                a, b = stream[k][t], stream[k + 1][t]
                totals[k] += float((a @ b) / (a.norm() * b.norm()))
    assert block_influence(teacher, ROWS) == pytest.approx([1 - x / positions for x in totals], abs=1e-6)


def _raw(causal: Causal, row: list[int]) -> list[torch.Tensor]:
    hidden = causal.body.embed_tokens(torch.tensor([row]))
    out, place = [hidden[0]], torch.arange(len(row))[None]
    for block in causal.layers:
        around = causal.body.rotary_emb(hidden, place)
        hidden = block(hidden, position_embeddings=around, position_ids=place, attention_mask=None)
        out.append(hidden[0])
    return out


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"layers": 0}, "from 1 to 4"),
        ({"layers": 5}, "from 1 to 4"),
        ({"layers": ()}, "rising block numbers"),
        ({"layers": (2, 1)}, "rising block numbers"),
        ({"layers": (1, 1)}, "rising block numbers"),
        ({"layers": (0, 4)}, "from 0 to 3"),
        ({"width": 0.01, "refit": False}, "leaves none"),
        ({"layers": 2, "ridge": 0.0}, "above 0"),
    ],
)
def test_impossible_shapes(new_causal, settings: dict, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Shrink(**settings)(slots(new_causal()), ROWS)


def test_settings_are_checked_when_built() -> None:
    for width in (0.0, -0.5, 1.5):
        with pytest.raises(SettingError, match="width"):
            Shrink(width=width)
    with pytest.raises(UnknownName, match="influence"):
        Shrink(by="influense")
    assert Shrink(layers=[0, 1]).layers == (0, 1)  # type: ignore[arg-type]


def test_calibration_rows_are_needed(new_causal) -> None:
    for settings in (Shrink(layers=2), Shrink(width=0.5, refit=False), Shrink(layers=2, by="influence", refit=False)):
        with pytest.raises(SettingError, match="calibration"):
            settings(slots(new_causal()), [])


def test_unknown_slot(new_causal) -> None:
    with pytest.raises(UnknownName, match="teacher"):
        Shrink(source="techer", layers=2)(slots(new_causal()), ROWS)
