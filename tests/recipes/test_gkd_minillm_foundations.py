"""The checks of the card on the classic objectives: divergences, estimators, masks, and the recipes made of them."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tutelage.core import catalog, node
from tutelage.core.batch import Batch, Units
from tutelage.core.context import Context
from tutelage.core.errors import NeedError, SettingError
from tutelage.core.feedback import Last, Ratchet
from tutelage.core.needs import stages
from tutelage.core.recipe import Train
from tutelage.core.record import Record
from tutelage.core.schedule import Progress
from tutelage.core.scores import Head, Lazy
from tutelage.core.signal import Constant, Noted
from tutelage.data.source import Beside, Corpus, Mixture
from tutelage.signals.divergences import (
    SkewedForward,
    SkewedReverse,
    cross_entropy,
    cross_entropy_of_best,
    kl_forward,
    kl_reverse,
)
from tutelage.signals.importance import Ratio, Whitened
from tutelage.signals.match import Match
from tutelage.signals.policy import ScoreFunction
from tutelage.signals.pools import RowMean, ToGo
from tutelage.signals.readouts import gap
from tutelage.signals.skew import Anchored, Skewed

TRAINING = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
CONTRACTS = runpy.run_path(str(Path(__file__).parents[1] / "contracts" / "conftest.py"))
world, worst = TRAINING["world"], TRAINING["worst"]
setting, Fixed = CONTRACTS["setting"], CONTRACTS["Fixed"]
EQUIVALENCE = runpy.run_path(str(Path(__file__).parents[1] / "equivalence" / "kit.py"))
limit, step, same = (EQUIVALENCE[n] for n in ("limit", "step", "same"))
RECIPES = ("gkd", "imitkd", "minillm", "distillm", "distillm_2", "opd", "seqkd", "gkd_minillm_foundations")


def trains(name, **arguments):
    return [s for s in stages(catalog.build(name, arguments).stages) if isinstance(s, Train)]


def compare_of(name, **arguments):
    return trains(name, **arguments)[0].updates[0].objective[0].loss.compare


def pair(categories=7, rows=4):
    g = torch.Generator().manual_seed(3)
    z, v = (torch.randn(rows, categories, generator=g, dtype=torch.float64) for _ in range(2))
    return z.requires_grad_(), v.log_softmax(-1)


# -- check 1 ----------------------------------------------------------------------------------------------------------
def test_the_ends_of_beta_are_torchs_own_kl_divergences():
    z, log_p = pair()
    log_q = z.log_softmax(-1)
    for beta, (first, second) in {0.0: (log_q, log_p), 1.0: (log_p, log_q)}.items():
        want = F.kl_div(first, second.exp(), reduction="sum")
        assert torch.allclose(compare_of("gkd", beta=beta)(log_q, log_p).sum(), want, atol=1e-6)


def test_jensen_shannon_is_symmetric_and_at_most_log_2():
    far = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).log(), torch.tensor([[0.0, 1.0], [0.4, 0.6]]).log()
    compare = compare_of("gkd", beta=0.5)
    assert torch.allclose(compare(*far), compare(*far[::-1]))
    assert float(compare(*far)[0]) == pytest.approx(math.log(2)) and (compare(*far) <= math.log(2) + 1e-7).all()


# -- check 2 ----------------------------------------------------------------------------------------------------------
def test_gradients_of_every_recipes_divergence_equal_the_closed_forms_on_seven_categories():
    z, log_p = pair(7)
    q, p = z.softmax(-1).detach(), log_p.exp()
    u, a, b = p / q, 0.1, 0.3
    closed = {
        compare_of("gkd", beta=b): -(1 - b) * (b * u + 1 - b).log(),
        compare_of("distillm", alpha=a, reverse=False): -(1 - a) * u / (a * u + 1 - a),
        compare_of("distillm", alpha=a): -(a + (1 - a) * u).log() + (1 - a) * u / (a + (1 - a) * u),
        compare_of("opd"): 1 - u.log(),
        compare_of("imitkd", whole=True): -u,
    }
    for compare, g in closed.items():
        (got,) = torch.autograd.grad(compare(z.log_softmax(-1), log_p).sum(), z)
        assert torch.allclose(got, q * (g - (q * g).sum(-1, keepdim=True)), atol=1e-10), compare
    (hard,) = torch.autograd.grad(cross_entropy_of_best(z.log_softmax(-1), log_p).sum(), z)
    assert torch.allclose(hard, q - F.one_hot(p.argmax(-1), 7))


# -- check 3 ----------------------------------------------------------------------------------------------------------
def test_without_skew_they_are_the_plain_divergences_and_with_it_zeros_stay_finite():
    z, log_p = pair()
    log_q = z.log_softmax(-1)
    assert torch.allclose(SkewedForward(0.0)(log_q, log_p), kl_forward(log_q, log_p))
    assert torch.allclose(SkewedReverse(0.0)(log_q, log_p), kl_reverse(log_q, log_p))
    q, p = torch.tensor([[0.6, 0.4, 0.0]]).log(), torch.tensor([[0.0, 0.3, 0.7]]).log()
    assert torch.isinf(kl_forward(q, p)) and torch.isinf(kl_reverse(q, p))
    assert torch.isfinite(SkewedForward(0.1)(q, p)) and torch.isfinite(SkewedReverse(0.1)(q, p))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_skew_for_each_record_is_the_divergence_of_that_skew(setting, reverse):
    """Value and gradient against plain autograd, one number a row; without a skew it is the plain divergence."""
    s = setting()
    s.batch.notes["rows.skew"] = torch.tensor([0.0, 0.3, 0.1, 0.05], dtype=torch.float64)
    plain = SkewedReverse if reverse else SkewedForward
    row = s.batch.units["tokens"].row
    value, values = node.total(s.context(), "tokens", [Skewed(Noted("skew", "rows"), reverse)], torch.ones(1, 13, dtype=torch.float64))
    each = [plain(float(s.batch.notes["rows.skew"][r]))(s.log_q()[u], s.log_p()[u]) for u, r in enumerate(row)]
    assert torch.allclose(values[0], torch.stack(each).detach())
    want = torch.autograd.grad(torch.stack(each).sum(), (s.hidden, s.weight))
    got = torch.autograd.grad(value, (s.hidden, s.weight))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(got, want, strict=True))


def test_the_skew_follows_the_records_gap_and_keeps_its_bounds(setting):
    s = setting()
    ctx = s.context()
    x = ctx.still(RowMean(gap()))
    got = ctx.still(Anchored(RowMean(gap()), 0.2, 0.01, 0.1))
    assert torch.allclose(got, (1 - 0.2 / (x + 1e-5)).clamp(0.01, 0.1))
    assert torch.equal(ctx.still(Anchored(RowMean(gap()), 0.0)), torch.full((4,), 0.1, dtype=torch.float64))
    anchored = Skewed(Anchored(RowMean(gap()), 0.2, 0.01, 0.5))
    ctx = s.context()
    ctx.settle(anchored)
    value, _ = node.total(ctx, "tokens", [anchored], torch.ones(1, 13, dtype=torch.float64))
    share = (1 - 0.2 / (x + 1e-5)).clamp(0.01, 0.5)[s.batch.units["tokens"].row].unsqueeze(-1)
    mix = (share * s.log_p().exp() + (1 - share) * s.log_q().exp()).log()
    want = (s.log_p().exp() * (s.log_p() - mix)).sum()
    assert torch.allclose(value, want)
    pairs = zip(torch.autograd.grad(value, (s.hidden, s.weight)), torch.autograd.grad(want, (s.hidden, s.weight)), strict=True)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in pairs), "the skew itself has no gradient"
    with pytest.raises(SettingError, match="Anchored"):
        Anchored(Constant(), 0.0, 0.2, 0.1)


# -- check 4 ----------------------------------------------------------------------------------------------------------
def chain(length=3):
    """Every answer of a first-order chain over three symbols, as one batch: a row an answer, its probability a note."""
    g = torch.Generator().manual_seed(0)
    z, v = (torch.randn(3, 3, generator=g, dtype=torch.float64) for _ in range(2))
    z.requires_grad_()
    answers = list(product(range(3), repeat=length))
    row = torch.arange(len(answers)).repeat_interleave(length)
    time = torch.arange(length).repeat(len(answers))
    target = torch.tensor([s for y in answers for s in y])
    before = torch.tensor([s for y in answers for s in (0, *y[:-1])])
    units = {"tokens": Units(row, time, target), "rows": Units(torch.arange(len(answers)), torch.zeros(len(answers), dtype=torch.long))}
    hidden = torch.eye(3, dtype=torch.float64)[before]
    voices = {
        "student": Fixed("student", {"next": Lazy(hidden, Head(z.T))}),
        "teacher": Fixed("teacher", {"next": Lazy(hidden, Head(v.T))}),
    }
    own = z.log_softmax(-1)[before, target]
    log_q = torch.zeros(len(answers), dtype=torch.float64).index_add(0, row, own)
    log_p = torch.zeros_like(log_q).index_add(0, row, v.log_softmax(-1)[before, target])
    batch = Batch(tuple(Record(str(y), ()) for y in answers), units, {})
    return Context(batch, voices, {}, frozenset({"student"})), z, log_q, log_p


def test_the_score_function_averages_to_the_gradient_of_the_reverse_kl_and_the_naive_loss_to_zero():
    ctx, z, log_q, log_p = chain(length=1)
    exact = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), z, retain_graph=True)[0]
    weight = log_q.exp().detach()
    estimate = torch.autograd.grad((ctx(ScoreFunction(gap())) * weight).sum(), z, retain_graph=True)[0]
    assert torch.allclose(estimate, exact, atol=1e-12) and float(exact.abs().max()) > 0.01
    naive = torch.autograd.grad((-ctx(gap()) * weight).sum(), z)[0]
    assert float(naive.abs().max()) < 1e-12


def test_exact_first_part_and_reward_to_go_are_the_gradient_of_the_reverse_kl_of_whole_answers():
    """MiniLLM's split, over all 27 answers: KL(q || p) of each step in full, later steps by the log-ratios to come."""
    ctx, z, log_q, log_p = chain(length=3)
    exact = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), z, retain_graph=True)[0]
    weight = log_q.exp().detach()[ctx.batch.units["tokens"].row]
    split = Match(kl_reverse) + ScoreFunction(ToGo(gap()))
    got = torch.autograd.grad((ctx(split) * weight).sum(), z, retain_graph=True)[0]
    assert torch.allclose(got, exact, atol=1e-12)
    alone = torch.autograd.grad((ctx(Match(kl_reverse)) * weight).sum(), z)[0]
    assert float((alone - exact).abs().max()) > 1e-3, "the first part alone is another gradient"


# -- check 5 ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def drawn(world):
    """The first step of each recipe's last Train stage, with rows from its own source."""
    ws = world.ws
    world.records = [replace(r, group="") for r in world.records]
    ws.data["train"] = world.records
    held = [world.row("h", "What?", "that")]
    for name, taught in (("answers", 1.0), ("own", 0.0)):
        rows = [replace(r, pieces=(*r.pieces[:-1], replace(r.pieces[-1], notes={"taught": (taught,) * size(r, world)}))) for r in world.records]
        ws.data[name] = rows
    ws.data["held_out"] = held

    def take(name, **arguments):
        stage = trains(name, **arguments)[-1]
        world.pair.student.model.requires_grad_(False).eval()
        with torch.no_grad():
            rows = stage.source.draw(Progress("train", 0, 10), ws.within("train", 0), 4)
        return stage, rows

    return take


def shortened(record, most):
    """The record with at most so many tokens of a written answer."""
    last = record.pieces[-1]
    if last.ids is None:
        return record
    notes = {name: values[:most] for name, values in last.notes.items()}
    return replace(record, pieces=(*record.pieces[:-1], replace(last, ids=last.ids[:most], notes=notes)))


def size(record, world):
    from tutelage.data.render import render

    return sum(len(s.ids) for s in render(record, world.tokenizer) if s.trains)


@pytest.mark.parametrize("name", RECIPES)
def test_padding_packing_and_uneven_accumulation_leave_the_gradient(name, world, drawn):
    arguments = {"max_tokens": 7} if "max_tokens" in catalog.parameters(catalog.find(name)) else {}
    stage, rows = drawn(name, **arguments)
    rows = [shortened(r, 2 + i) for i, r in enumerate(rows)]
    assert len({size(r, world) for r in rows}) > 1, "rows of different lengths, or nothing is tested"
    whole, told = world.gradients(stage.updates[0], rows=rows, pack=False, padding="right", voices=stage.voices)
    for how in ({"pack": True}, {"padding": "left", "pack": False}, {"size": 1}, {"size": 3}):
        other, again = world.gradients(stage.updates[0], rows=rows, voices=stage.voices, **how)
        assert worst(other, whole) < 1e-4, how
        assert again.loss == pytest.approx(told.loss, rel=1e-4, abs=1e-6), how


# -- the writers -------------------------------------------------------------------------------------------------------
def test_imitkd_goes_from_the_datas_answers_to_the_students(world, drawn):
    stage, _ = drawn("imitkd", max_tokens=5)
    wrote = []
    for step in (0, 20, 40):
        with torch.no_grad():
            rows = stage.source.draw(Progress("train", step, 40), world.ws.within("train", step), 20)
        wrote.append(sum(r.pieces[-1].author == "student" for r in rows))
    assert wrote[0] == 0 and 3 < wrote[1] < 17 and wrote[2] == 20


def test_minillms_advantages_are_the_cards_pseudocode(world, drawn):
    _, rows = drawn("minillm", max_tokens=7, text_scale=0.0)
    raw = []
    for record in rows:
        notes = record.pieces[-1].notes
        r = [p - q for p, q in zip(notes["teacher"], notes["old"], strict=True)]
        raw.append([sum(r[t + 1 :]) / max(1, len(r) - t - 1) for t in range(len(r))])
    flat = torch.tensor([x for some in raw for x in some])
    want = (flat - flat.mean()) / (flat.var() + 1e-8).sqrt()
    got = torch.tensor([x for r in rows for x in r.pieces[-1].notes["advantage"]])
    assert torch.allclose(got, want, atol=1e-4) and len(flat) > 10
    weights = [x for r in rows for x in r.pieces[-1].notes["answer"]]
    mixes = [(r.pieces[-1].notes["old"][t], r.pieces[-1].notes["drawn"][t]) for r in rows for t in range(len(r.pieces[-1].ids))]
    assert weights == pytest.approx([math.exp(o - d) for o, d in mixes], rel=1e-4)
    assert max(weights) <= 1 / 0.8 + 1e-3, "q / (0.8 q + 0.2 p) is at most 1 / 0.8"


def test_rows_of_text_count_in_the_terms_on_text_alone(world, drawn):
    """The answers' gradient is the same beside any text, and text without an answer's notes is never refused."""
    stage, rows = drawn("minillm", max_tokens=7)
    update = stage.updates[0]
    answers = [r for r in rows if r.pieces[-1].author == "student"]
    text = [r for r in rows if r.pieces[-1].author == "data"]
    assert len(answers) == len(text) == 4 and all(p.trains for r in text for p in r.pieces)
    policy = replace(update, objective=update.objective[:2])
    assert worst(world.gradients(policy, rows=rows)[0], world.gradients(policy, rows=answers)[0]) < 1e-5
    reading = replace(update, objective=update.objective[2:])
    assert worst(world.gradients(reading, rows=rows)[0], world.gradients(reading, rows=text)[0]) < 1e-5


def test_distillm_2_compares_two_answers_to_each_prompt(world, drawn):
    stage, rows = drawn("distillm_2", max_tokens=7)
    assert isinstance(stage.source, Beside)
    by_writer = [[r.id for r in rows if r.pieces[-1].notes["taught"][0] == mark] for mark in (1.0, 0.0)]
    assert by_writer[0] == by_writer[1] and len(by_writer[0]) == 4
    _, told = world.gradients(stage.updates[0], rows=rows)
    with torch.no_grad():
        ctx = Context(*context_of(world, rows))
        gaps = ctx(RowMean(gap())) * ctx(RowMean(2 * Noted("taught") - 1))
    assert told.tallies["excess"].mean == pytest.approx(float(gaps.mean()), abs=1e-5)


def context_of(world, rows):
    from tutelage.data.collate import Collate
    from tutelage.voices.says import Says

    return Collate(world.tokenizer, 128)(rows), {s: Says(s) for s in world.ws.models}, {}, frozenset(), world.ws


# -- writing together -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stops", [None, 60], ids=["full length", "rows stop one by one"])
def test_every_token_is_drawn_from_the_average_of_both_models(world, stops):
    from tutelage.data.steps.ask import Ask
    from tutelage.voices.blend import Blend

    ws, pool = world.ws, Blend(("student", "teacher"), (0.8, 0.2))
    if stops:
        world.pair.student.model.generation_config.eos_token_id = list(range(20, 20 + stops))
    rows = list(Ask(pool, max_tokens=9)(iter(world.records), ws))
    assert not stops or len({len(r.pieces[-1].ids) for r in rows}) > 2
    with torch.no_grad():
        ctx = Context(*context_of(world, rows))
        q, p = (ctx.say(who)["next"].at(slice(None)) for who in ("student", "teacher"))
    mixed = (0.8 * q.exp() + 0.2 * p.exp()).log()
    target = ctx.batch.units["tokens"].target.unsqueeze(-1)
    want = mixed.gather(-1, target).squeeze(-1)
    for note in ("drawn", "log_prob"):
        assert torch.allclose(ctx.batch.notes[f"tokens.{note}"], want, atol=2e-4)
    assert all(r.pieces[-1].author == "student" for r in rows)
    assert ws.ledger.get("student+teacher", "sample").tokens == len(want)


def test_at_the_ends_one_model_writes_alone(world):
    from tutelage.data.steps.ask import Ask
    from tutelage.voices.blend import Blend

    def written(who):
        return [r.pieces[-1].ids for r in Ask(who, max_tokens=9)(iter(world.records), world.ws)]

    assert written(Blend(("student", "teacher"), (1.0, 0.0))) == written("student")
    assert written(Blend(("student", "teacher"), (0.0, 1.0))) == written("teacher") != written("student")


def test_drawn_tokens_have_the_averages_frequencies(world):
    from tutelage.models.draw import Sampling
    from tutelage.models.sample import sample

    teacher, student = world.pair.teacher, world.pair.student
    first = sample(student, [[5, 6, 7]] * 4000, Sampling(max_tokens=1), range(4000), [(teacher, 0.4)])
    view = context_of(world, world.records)[0].views["main"]
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
        q, p = (torch.softmax(m.head.squash(m.head.raw(m.hidden(inputs)[0, -1:])), -1)[0] for m in (student, teacher))
    mixed, seen = 0.6 * q + 0.4 * p, torch.bincount(torch.tensor([s.ids[0] for s in first]), minlength=len(q)) / 4000
    assert float((seen - mixed).abs().sum()) < 0.8 * float((seen - q).abs().sum())
    sigma = (mixed * (1 - mixed) / 4000).sqrt()
    assert float(((seen - mixed).abs() / sigma.clamp_min(1e-4)).max()) < 5 and view is not None


def test_importance_weights_make_the_average_the_students():
    """E_mix[w f] = E_q[f], token by token, and a cap bounds each weight."""
    z, log_p = pair(5, 1)
    q, p = z.softmax(-1)[0].detach(), log_p[0].exp()
    mix = 0.8 * q + 0.2 * p
    batch = Batch((Record("r", ()),), {"tokens": Units(torch.zeros(5, dtype=torch.long), torch.arange(5))}, {}, {"tokens.old": q.log(), "tokens.drawn": mix.log()})
    ctx = Context(batch, {}, {})
    weight = ctx(Ratio(Noted("old"), Noted("drawn")))
    assert torch.allclose(mix * weight, q)
    assert float(ctx(Ratio(Noted("old"), Noted("drawn"), cap=0.9)).max()) == pytest.approx(0.9)
    batch.notes["tokens.old"][:] = 500.0
    assert torch.isfinite(Context(batch, {}, {})(Ratio(Noted("old"), Noted("drawn")))).all()


def test_whitened_values_have_mean_0_and_variance_1_and_equal_ones_become_0(setting):
    s = setting()
    x = s.context().still(Whitened(gap()))
    raw = (s.log_p() - s.log_q()).gather(-1, s.batch.units["tokens"].target.unsqueeze(-1)).squeeze(-1).detach()
    assert torch.allclose(x, (raw - raw.mean()) / raw.std(), atol=1e-6)
    assert float(s.context().still(Whitened(Noted("old") - Noted("old"))).abs().max()) == 0


def test_a_pool_that_cannot_be_written_from_is_refused(world):
    from tutelage.data.steps.ask import Ask
    from tutelage.voices.blend import Blend

    with pytest.raises(NeedError, match="linear pool with fixed shares"):
        list(Ask(Blend(("student", "teacher"), (0.5, 0.5), geometric=True))(iter(world.records), world.ws))


# -- schedules and sources ----------------------------------------------------------------------------------------------
def test_the_ratchet_rises_only_where_validation_gets_worse_and_moves_its_mark_then():
    made, got = Ratchet("held", 0.0, 0.1, 0.05), []
    for loss in (2.0, 1.5, 2.04, 2.06, 2.08, 2.2, 1.0):
        made.observe(Progress(), {"held": loss})
        got.append(round(made(Progress()), 3))
    assert got == [0, 0, 0, 0.1, 0.1, 0.2, 0.2]
    other = Ratchet("held", 0.0, 0.1, 0.05)
    other.load_state_dict(made.state_dict())
    other.observe(Progress(), {"held": 9.0})
    assert other(Progress()) == pytest.approx(0.3)
    for _ in range(20):
        other.observe(Progress(), {"held": other.state_dict()["mark"] + 1})
    assert other(Progress()) == 1.0 and other.figures() == {"ratchet.held": 1.0}
    with pytest.raises(SettingError, match="Ratchet"):
        Ratchet("held", start=2.0)


def test_last_gives_the_mean_of_the_step_before():
    made = Last("x", 0.9)
    assert made(Progress()) == 0.0
    made.observe(Progress(), {"x": 2.0})
    made.observe(Progress(), {"y": 5.0})
    other = Last("x", 0.9)
    other.load_state_dict(made.state_dict())
    assert made(Progress()) == other(Progress()) == pytest.approx(1.8)


def test_distillm_turns_to_the_student_when_the_validation_loss_rises(world, drawn, monkeypatch):
    """And old answers come back with probability t / T of the steps that use the student's."""
    from tutelage.data.gauge import Gauge

    losses = iter([1.0, 3.0, 5.0, 7.0] + [9.0 + 2 * i for i in range(7)])
    monkeypatch.setattr(Gauge, "__call__", lambda self, ws: {"held_out": next(losses)})
    (stage,) = trains("distillm", every=1, max_tokens=3)
    phi = stage.source.tells[0]
    values = []
    for step in range(11):
        with torch.no_grad():
            stage.source.draw(Progress("train", step, 11), world.ws.within("train", step), 2)
        values.append(round(phi(Progress()), 3))
    assert values == [round(0.1 * s, 3) for s in range(11)]
    assert isinstance(stage.source.source, Mixture)


def test_sources_beside_each_other_share_slots_and_processes(world):
    world.ws.data.update(one=world.records, two=[replace(r, group="") for r in world.records])
    both = Beside((Corpus("one"), Corpus("two", order="one")))
    alone = [r.id for r in both.draw(Progress("s", 1, 5), world.ws, 3)]
    shared = [r.id for rank in range(3) for r in both.draw(Progress("s", 1, 5), world.ws, 3, rank, 3)]
    assert shared == alone
    with pytest.raises(SettingError, match="Beside"):
        Beside(())


def test_the_gauge_measures_as_training_would_and_refuses_rows_that_are_trained_on(world, drawn):
    from tutelage.core.errors import DataError
    from tutelage.data.gauge import Gauge
    from tutelage.signals.match import Targets

    world.ws.data["held_out"] = [world.row("h", "What?", "that"), world.row("k", "Who is it?", "nobody at all")]
    (got,) = Gauge(Targets(), (Corpus("held_out"),), batch_size=1)(world.ws).values()
    with torch.no_grad():
        want = Context(*context_of(world, world.ws.data["held_out"]))(Targets()).mean()
    assert got == pytest.approx(float(want), rel=1e-6)
    (stage,) = trains("distillm", held="train", start=0.0)
    with pytest.raises(DataError, match="never trained on"):
        stage.source.draw(Progress("train", 0, 2), world.ws, 2)


def test_cross_entropies_are_what_their_names_say():
    z, log_p = pair()
    log_q = z.log_softmax(-1).detach()
    assert torch.allclose(cross_entropy(log_q, log_p), -(log_p.exp() * log_q).sum(-1))
    assert torch.allclose(cross_entropy_of_best(log_q, log_p), F.nll_loss(log_q, log_p.argmax(-1), reduction="none"))


# -- the composition ---------------------------------------------------------------------------------------------------
def composed(**arguments):
    return trains("gkd_minillm_foundations", max_tokens=6, **arguments)[0]


@limit("gkd_minillm_foundations", "student_share=1: gkd with student_share=1.")
def test_the_composition_on_own_answers_is_gkd(step):
    for beta in (0.0, 0.5, 1.0):
        same(step(composed(student_share=1.0, beta=beta)), step(trains("gkd", student_share=1.0, beta=beta, temperature=1.0, max_tokens=6)[0]))


@limit("gkd_minillm_foundations", "student_share=0: gkd with student_share=0.")
def test_the_composition_on_data_is_gkd(step):
    for at in (0, 3):
        same(step(composed(student_share=0.0), at), step(trains("gkd", student_share=0.0)[0], at))


@limit("gkd_minillm_foundations", "teacher_share=1, divergence=forward, estimator=sampled: seqkd.")
def test_the_composition_on_samples_of_the_teacher_is_seqkd(step):
    shares = {"student_share": 0.0, "teacher_share": 1.0}
    same(step(composed(**shares, divergence="forward", estimator="sampled")), step(trains("seqkd")[0]))
    made = catalog.build("gkd_minillm_foundations", {**shares, "max_tokens": 6})
    assert made.stages[0] == catalog.build("seqkd", {"max_tokens": 6, "temperature": 1.0}).stages[0]
    assert len(catalog.build("gkd_minillm_foundations", {}).stages) == 1, "nothing is written beforehand unless it is used"


@limit("gkd_minillm_foundations", "student_share=1, divergence=skewed_reverse: distillm with start=1, in the first step.")
def test_the_composition_skewed_is_distillm(step, world):
    world.ws.data["held_out"] = [world.row("h", "Another one?", "no")]
    same(step(composed(student_share=1.0, divergence="skewed_reverse")), step(trains("distillm", start=1.0, max_tokens=6)[0]))


@limit("gkd_minillm_foundations", "student_share=1, divergence=forward: the gradient of imitkd with no data and whole=true.")
def test_the_composition_forward_is_imitkd(step):
    other = {"data_share": 0.0, "final_data_share": 0.0, "whole": True, "temperature": 1.0, "max_tokens": 6}
    one, two = step(composed(student_share=1.0, divergence="forward")), step(trains("imitkd", **other)[0])
    assert one[2] == two[2] and worst(one[0], two[0]) < 2e-6


@limit("gkd_minillm_foundations", "student_share=1, divergence=reverse, surrogate=policy: minillm with teacher_share=0, reuse=1, text_scale=0.")
def test_the_composition_with_rewards_to_go_is_minillm(step):
    one = step(composed(student_share=1.0, divergence="reverse", surrogate="policy"))
    two = step(trains("minillm", teacher_share=0.0, reuse=1, text_scale=0.0, max_tokens=6)[0])
    assert one[2] == two[2] and worst(one[0], two[0]) < 5e-6


@limit("gkd_minillm_foundations", "student_share=1, divergence=reverse, estimator=sampled: the expected gradient of opd.")
def test_4_the_compositions_sample_averages_to_the_whole_reverse_kl_over_every_token(setting):
    s = setting()
    sampled, full = (composed(student_share=1.0, divergence="reverse", estimator=e).updates[0].objective[0].loss for e in ("sampled", "full"))
    total = 0
    q = s.log_q().detach().exp()
    for token in range(11):
        batch = replace(s.batch, units={**s.batch.units, "tokens": replace(s.batch.units["tokens"], target=torch.full((13,), token))})
        ctx = s.context()
        ctx.batch = batch
        total = total + (q[:, token] * ctx(sampled)).sum()
    want = s.context()(full).sum()
    for a, b in zip(*(torch.autograd.grad(x, (s.hidden, s.weight)) for x in (total, want)), strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def test_estimators_by_k_order_as_the_card_says(setting):
    s = setting()
    value = lambda estimator, k=3: s.context()(composed(divergence="reverse", estimator=estimator, num_kept=k).updates[0].objective[0].loss).detach()
    full, tail = value("full"), value("tail")
    assert bool((tail <= full + 1e-9).all()) and bool((value("renormalised") >= -1e-9).all())
    assert bool((value("partial") > full).any()) or bool((value("partial") < 0).any())
    for estimator in ("tail", "renormalised", "partial"):
        assert torch.allclose(value(estimator, 11), full, atol=1e-9)


def test_steps_have_the_writers_shares(world):
    world.ws.data["train"], world.ws.data["answers"] = world.records, [replace(r, id=f"t{r.id}") for r in world.records]
    source, wrote = composed(student_share=0.3, teacher_share=0.3).source, []
    for at in range(60):
        with torch.no_grad():
            row = source.draw(Progress("train", at, 60), world.ws.within("train", at), 1)[0]
        wrote.append("student" if row.pieces[-1].author == "student" else "teacher" if row.id.startswith("t") else "data")
    assert 9 <= wrote.count("student") <= 28 and 9 <= wrote.count("teacher") <= 28 and 13 <= wrote.count("data") <= 36


def test_compositions_that_cannot_be_are_refused():
    for wrong in (
        {"student_share": 0.7, "teacher_share": 0.5}, {"student_share": -0.1}, {"surrogate": "policy"}, {"estimator": "sampled"},
        {"student_share": 1.0, "surrogate": "policy", "divergence": "forward"}, {"num_kept": 0, "estimator": "tail"},
        {"divergence": "none"}, {"estimator": "none"}, {"beta": 2.0},
    ):  # fmt: skip
        with pytest.raises(SettingError):
            composed(**wrong)
