"""Multi-granularity revision, check by check of its card; check 6 is tests/behaviour/test_multi_granularity_revision.py."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tutelage.core.batch import Units
from tutelage.core.errors import NeedError, SettingError
from tutelage.core.record import Piece, Record
from tutelage.core.signal import Constant, Noted, Read
from tutelage.core.term import Term, Update
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.note import Note
from tutelage.data.steps.revise import UNDRAWN, Revise, revisions
from tutelage.data.steps.revise import worst as worst_place
from tutelage.recipes.multi_granularity_revision import multi_granularity_revision
from tutelage.signals.band import BandKl, Bounds, Largest, band_divergence, kept_share, learned_band
from tutelage.signals.best import Best
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match
from tutelage.signals.neighbours import MatchPairs, Next, SamePhrase, next_of

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, size = (KIT[n] for n in ("world", "worst", "setting", "stage", "size"))
rollouts, context, limit, step, same, Fixed = (KIT[n] for n in ("rollouts", "context", "limit", "step", "same", "Fixed"))
ALL = (Constant(0.0), Constant(1.0))


@limit("multi_granularity_revision", "rounds=0, banded=False and span_scale=0: gkd with student_share=1 and beta=0.")
def test_1_nothing_revised_is_forward_kl_on_own_answers(step):
    bare = stage("multi_granularity_revision", rounds=0, banded=False, span_scale=0.0, max_tokens=6)
    same(step(bare), step(stage("gkd", student_share=1.0, beta=0.0, temperature=1.0, max_tokens=6)))


def test_1_a_band_of_all_is_the_forward_kl_in_value_and_gradient(setting):
    s = setting()
    got, want = s.context()(BandKl(*ALL, least=0.0)), s.context()(Match(kl_forward))
    assert torch.allclose(got, want, atol=1e-6)
    for a, b in zip(*(torch.autograd.grad(x.sum(), (s.hidden, s.weight)) for x in (got, want)), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_1_a_band_of_one_token_has_loss_0(setting):
    s = setting()
    p = s.log_p()
    share = torch.zeros_like(p).scatter(-1, s.batch.units["tokens"].target[:, None], 1.0)
    value = band_divergence(s.log_q(), p, share, 0.0, 0.0)
    assert torch.allclose(value, torch.zeros_like(value), atol=1e-9)
    assert bool((band_divergence(s.log_q(), p, share, 0.0, 1.0) > 0.01).all()), "with a price on what lies outside"


def test_2_the_target_is_kept_whole_and_the_rest_by_the_mass_above_it():
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    edges = [torch.tensor([x], dtype=torch.float64) for x in (0.5, 0.45)]
    share = kept_share(p.log(), *edges, torch.tensor([3]))
    # low 0.5 * 1.4 - 0.4 = 0.3 and high 0.45 * 1.4 = 0.63: only the second, behind a mass of 0.5, lies between
    want = [0.0, 1.0, 0.0, 1.0]
    assert share[0].tolist() == pytest.approx(want, abs=2e-3)
    for c in range(4):
        for low, high in ((0.0, 1.0), (0.9, 0.91), (0.0, 0.01)):
            some = kept_share(p.log(), torch.tensor([low]).double(), torch.tensor([high]).double(), torch.tensor([c]))
            assert float(some[0, c]) == 1
            kept = p * some
            assert float((kept / kept.sum()).sum()) == pytest.approx(1)


def test_2_missing_mass_is_added_to_the_value(setting):
    s = setting()
    narrow = (Constant(0.99), Constant(1.0))
    free, held = (s.context()(BandKl(*narrow, least=least)) for least in (0.0, 0.9))
    low, high = (torch.full((13,), x, dtype=torch.float64) for x in (0.99, 1.0))
    share = kept_share(s.log_p(), low, high, s.batch.units["tokens"].target)
    missing = (0.9 - (s.log_p().exp() * share).sum(-1)).clamp_min(0)
    assert torch.allclose(held - free, missing, atol=1e-8) and float(missing.max()) > 0.1


def banded(setting, seed=0):
    """A context with a trained part, in float64, and the part."""
    s = setting(seed=seed)
    torch.manual_seed(1)
    part = Bounds(5, 8).double()
    with torch.no_grad():
        part.outer.weight.mul_(50)
        part.outer.bias.copy_(torch.tensor([-0.5, 0.2]))
    ctx = s.context()
    ctx.workspace = SimpleNamespace(models={"band": part})
    s.teacher_hidden.requires_grad_()
    return s, part, ctx


def test_3_the_part_gets_the_exact_gradient_of_the_soft_mask_and_the_teacher_none(setting):
    s, part, ctx = banded(setting)
    got = ctx(learned_band("band", 5, 0.5, 0.3))
    p = s.log_p().detach()
    low, high = part(p.topk(5).values.exp()).unbind(-1)
    want = band_divergence(s.log_q(), p, kept_share(p, low, high, s.batch.units["tokens"].target), 0.5, 0.3)
    assert torch.allclose(got, want, atol=1e-9)
    inputs = (s.hidden, s.weight, *part.parameters())
    coefficients = torch.linspace(0.5, 2, 13, dtype=torch.float64)
    grads = [torch.autograd.grad((x * coefficients).sum(), (*inputs, s.teacher_hidden), allow_unused=True) for x in (got, want)]
    for a, b in zip(grads[0][:-1], grads[1][:-1], strict=True):
        assert torch.allclose(a, b, atol=1e-8) and float(b.abs().max()) > 1e-6
    assert float(grads[0][-1].abs().max()) == 0, "the teacher gets none"


def test_3_a_step_moves_student_and_part(world):
    made = stage("multi_granularity_revision", num_read=8, max_tokens=6)
    assert made.updates[0].moves == ("student", "band") and "band" in made.parts
    torch.manual_seed(0)
    part = made.parts["band"](world.ws.models)

    class Slot:
        """The part as the slots of the world are."""

        model = part
        tokenizer = world.tokenizer

        def __call__(self, x):
            return part(x)

    world.ws.models["band"] = Slot()
    grads = {}
    for how in ({}, {"size": 2}, {"size": 2, "pack": True}, {"padding": "left"}):
        got, _ = world.gradients(made.updates[0], rows=rollouts(world), voices={"band": Fixed("band", {})}, **how)
        grads[str(how)] = got
    whole = grads.pop("{}")
    assert size(whole) > 1e-4 and all(worst(other, whole) < 1e-5 for other in grads.values())


def test_bounds_start_wide_in_order_and_read_small_vocabularies():
    bounds = Bounds(6)(torch.rand(20, 6))
    low, high = bounds.unbind(-1)
    assert bool((low < 0.1).all()) and bool((high > 0.9).all()) and bool((low < high).all()) and bool((high <= 1).all())
    from tutelage.core.scores import Dense

    found = Largest(6, chunk=3)(Dense(torch.randn(7, 4).log_softmax(-1)), None)
    assert found.shape == (7, 6) and bool((found[:, 4:] == 0).all()) and torch.allclose(found.sum(-1), torch.ones(7))
    assert bool((found[:, :3] >= found[:, 1:4]).all())


def answered(world):
    return list(run_steps((Ask("student", max_tokens=8),), [r.without_answer() for r in world.records], world.ws.within("t")))


def revised(world, rows, rounds=1):
    steps = revisions(Ask("student", max_tokens=8), rounds, Best(Read("teacher")), Match(kl_forward))
    return list(run_steps(steps, rows, world.ws.within("t")))


def test_4_the_prefix_stays_the_token_is_the_teachers_best_and_only_what_follows_may_differ(world):
    rows = answered(world)
    done = revised(world, rows)
    with torch.no_grad():
        ctx = context(world, rows)
        best, gap, row = ctx(Best()), ctx(Match(kl_forward)), ctx.batch.units["tokens"].row
    for i, (old, new) in enumerate(zip(rows, done, strict=True)):
        ids, own, d = old.pieces[-1].ids, best[row == i].long().tolist(), gap[row == i].tolist()
        bad = [t for t in range(len(ids)) if ids[t] != own[t]]
        place = max(bad, key=lambda t: d[t])
        answer = new.pieces[-1]
        assert answer.ids[:place] == ids[:place] and answer.ids[place] == own[place] and new.notes["revised"] == 1
        assert len(answer.ids) == 8 or answer.stop == "eos"
        assert answer.notes["drawn"][place] == UNDRAWN and answer.notes["drawn"][:place] == old.pieces[-1].notes["drawn"][:place]
        assert {len(v) for v in answer.notes.values()} == {len(answer.ids)} and set(answer.notes) == {"log_prob", "drawn"}
        assert answer.content == world.tokenizer.decode(answer.ids[:-1] if answer.stop == "eos" else answer.ids, skip_special_tokens=True)
        assert (new.id, new.group, new.without_answer()) == (old.id, old.group, replace(old.without_answer(), notes=new.notes))


def test_4_what_follows_is_written_from_the_exact_ids_and_notes_say_so(world):
    done = revised(world, answered(world))
    with torch.no_grad():
        from tutelage.signals.readouts import LogProb

        ctx = context(world, done)
        values, row = ctx(LogProb()), ctx.batch.units["tokens"].row
    for i, record in enumerate(done):
        said = torch.tensor(record.pieces[-1].notes["log_prob"])
        drawn = said <= 0
        assert torch.allclose(values[row == i][drawn], said[drawn], atol=1e-4) and int((~drawn).sum()) == 1


def test_4_the_teachers_own_answer_comes_back(world):
    world.ws.models["student"] = world.pair.teacher
    greedy = list(run_steps((Ask("teacher", max_tokens=6, temperature=0.0),), [r.without_answer() for r in world.records], world.ws))
    done = revised(world, greedy)
    assert [r.pieces[-1].ids for r in done] == [r.pieces[-1].ids for r in greedy] and all(r.notes["revised"] == 0 for r in done)


def test_4_the_worst_place_and_an_end_that_the_teacher_puts(world):
    assert worst_place([1, 2, 3], [1, 2, 3], [9.0, 9.0, 9.0]) is None
    assert worst_place([1, 2, 3, 4], [1, 5, 3, 5], [9.0, 1.0, 8.0, 2.0]) == 3 and worst_place([1, 2], [3, 4], [1.0, 1.0]) == 0
    end = world.pair.student.stop_ids[0]
    piece = Piece("", "assistant", "student", "answer", True, (5, 6, 7), {"best": (5.0, float(end), 7.0), "gap": (0.0, 1.0, 0.0)}, "length")
    row = Record("a", (*world.records[0].without_answer().pieces, piece))
    (done,) = list(Revise(Ask("student", max_tokens=8))(iter([row]), world.ws))
    assert done.pieces[-1].ids == (5, end) and done.pieces[-1].stop == "eos"
    assert len(revised(world, answered(world), rounds=3)) == 5 and revisions(Ask(), 0, Best(), Match(kl_forward)) == ()


def pairs_setting(setting):
    s = setting(num_units=9, num_rows=3)
    return s, s.batch.units["tokens"]


def test_5_equal_distributions_have_loss_0_and_value_and_gradient_are_exact(setting):
    s, units = pairs_setting(setting)
    ctx = s.context()
    got = ctx(MatchPairs(0.5))
    q, p, nxt = s.log_q(), s.log_p(), next_of(units)
    want = ((0.5 * (q + q[nxt])).exp() - (0.5 * (p + p[nxt])).exp()).square().sum(-1)
    assert torch.allclose(got, want, atol=1e-10)
    for a, b in zip(*(torch.autograd.grad((x * torch.arange(9.0)).sum(), (s.hidden, s.weight)) for x in (got, want)), strict=True):
        assert torch.allclose(a, b, atol=1e-9)
    twin = Fixed("teacher", {"next": s.context().field(Read("student"))})
    assert float(s.context(teacher=twin)(MatchPairs()).detach().abs().max()) < 1e-12
    assert nxt.tolist() == [i if i + 1 == 9 or units.row[i] != units.row[i + 1] else i + 1 for i in range(9)]


def phrase_weight(world, text, longest=8, more=()):
    ids = (*world.tokenizer(text, add_special_tokens=False)["input_ids"], *more)
    prompt = world.records[0].without_answer()
    row = replace(prompt, pieces=(*prompt.pieces, Piece(text, "assistant", "student", "answer", True, ids, {}, "length")))
    return context(world, [row, row])(SamePhrase(longest)).tolist()


def test_5_pairs_never_cross_the_end_of_a_phrase_a_row_or_a_special_token(world):
    weight = phrase_weight(world, "ab, cd.")  # bytes: a b , _ c d .
    assert weight == [1, 1, 0, 1, 1, 1, 0] * 2
    assert phrase_weight(world, "abcde", longest=2) == [1, 0, 1, 0, 0] * 2
    assert phrase_weight(world, "abcdef", longest=3) == [1, 1, 0, 1, 1, 0] * 2
    end = world.pair.student.stop_ids[0]
    assert phrase_weight(world, "ab", more=(end,)) == [1, 0, 0] * 2, "what ends an answer is in no phrase"


def test_5_another_phrases_distribution_changes_nothing(setting):
    s, _ = pairs_setting(setting)
    s.batch.notes["tokens.inside"] = torch.tensor([1.0, 1, 0, 0, 1, 1, 0, 1, 0], dtype=torch.float64)
    weighed = MatchPairs() * Noted("inside")
    with torch.no_grad():
        before = s.context()(weighed).clone()
        s.hidden[3] += 2
        after = s.context()(weighed)
    assert torch.equal(before, after), "unit 3 stands between two phrases"
    with torch.no_grad():
        s.hidden[1] += 2
        assert (s.context()(weighed) != after).nonzero().squeeze(1).tolist() == [0, 1]


def test_neighbours_of_pooled_scores_are_refused_and_dense_ones_are_shifted(setting):
    s, units = pairs_setting(setting)
    from tutelage.core.scores import Dense

    ctx = s.context()
    log_q = s.log_q().detach()
    assert torch.equal(Next()(Dense(log_q), ctx).log_probs, log_q[next_of(units)])
    with pytest.raises(NeedError, match="one model"):
        Next()("scores", ctx)
    assert next_of(Units(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))).tolist() == []


def test_the_span_loss_does_not_depend_on_micro_batches(world):
    update = Update((Term("spans", MatchPairs(), SamePhrase()),))
    want, told = world.gradients(update, rows=world.records)
    for how in ({"size": 2}, {"size": 2, "pack": True}, {"padding": "left"}):
        got, seen = world.gradients(update, rows=world.records, **how)
        assert worst(got, want) < 1e-5 and seen.loss == pytest.approx(told.loss, rel=1e-4)
    assert size(want) > 1e-5


def test_settings_are_checked():
    for wrong in (
        {"span_scale": -1.0}, {"num_read": 0}, {"rounds": -1}, {"least_mass": 2.0}, {"outside": -1.0}, {"longest_phrase": 1}, {"power": 0.0},
    ):  # fmt: skip
        with pytest.raises(SettingError):
            multi_granularity_revision(**wrong)
    with pytest.raises(SettingError, match="Revise"):
        Revise(Ask(times=2))
    assert isinstance(revisions(Ask(), 1, Best(), Match(kl_forward))[0], Note)
