"""TIP, check by check of its card; check 7 is tests/behaviour/test_tip.py."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core.catalog import build
from tutelage.core.context import Context
from tutelage.core.errors import SettingError, UnknownName
from tutelage.core.schedule import Progress
from tutelage.core.scores import Dense, Head
from tutelage.core.signal import Noted, Read, Still
from tutelage.core.term import Term, Update, kept, per_token
from tutelage.data.collate import split
from tutelage.recipes.tip import tip
from tutelage.signals.divergences import kl_reverse
from tutelage.signals.match import Match
from tutelage.signals.picks import Above, Below, Draw, TopShare, num_kept
from tutelage.signals.readouts import Entropy
from tutelage.signals.scale import Either, MinMax, quantile
from tutelage.training.step import Outcome, Plan, loss_of, prepare

TESTS = Path(__file__).parents[1]
TRAINING, CONTRACTS = (runpy.run_path(str(TESTS / name / "conftest.py")) for name in ("training", "contracts"))
world, worst, setting, Fixed = TRAINING["world"], TRAINING["worst"], CONTRACTS["setting"], CONTRACTS["Fixed"]
SELECTORS = ("either", "entropy", "wrong", "drawn")


def term(**arguments) -> Term:
    return build("tip", arguments).stages[0].updates[0].objective[0]


def picked(ctx, **arguments):
    with torch.no_grad():
        return ctx(term(**arguments).weight)


@pytest.fixture
def tokens(setting):
    """A context over given log-probabilities: dense(q logits, p logits)."""

    def make(q, p):
        s = setting(num_units=len(q))
        said = {"student": Dense(q.double().log_softmax(-1)), "teacher": Dense(p.double().log_softmax(-1))}
        return Context(s.batch, {who: Fixed(who, {"next": scores}) for who, scores in said.items()}, {})

    return make


@pytest.mark.parametrize("by", SELECTORS)
def test_1_a_share_of_1_is_all_token_opd_for_each_selector(by, world):
    all_of_it, told = world.gradients(build("opd").stages[0].updates[0])
    got, same = world.gradients(Update((term(share=1.0, by=by),)))
    assert worst(got, all_of_it) < 1e-7 and same.loss == pytest.approx(told.loss, rel=1e-7)
    assert worst(world.gradients(Update((term(share=0.4, by=by),)))[0], all_of_it) > 0.01


def test_2_a_constant_divergence_leaves_the_choice_of_entropy_and_the_two_are_symmetric(setting):
    s = setting(num_units=40)
    h, d = (torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    s.batch.notes.update({"tokens.h": h, "tokens.d": d, "tokens.same": torch.full_like(h, 0.7)})
    ctx, rank = s.context(), {n: MinMax(Noted(n)) for n in ("h", "d", "same")}
    by_h, by_both = TopShare(0.3, rank["h"]), TopShare(0.3, Either(rank["h"], rank["same"]))
    assert torch.equal(ctx(by_h), ctx(by_both)) and float(ctx(by_h).sum()) == 12
    assert torch.equal(ctx(Either(rank["h"], rank["d"])), ctx(Either(rank["d"], rank["h"])))
    assert not torch.equal(ctx(TopShare(0.3, Either(rank["h"], rank["d"]))), ctx(by_h))
    # the recipe itself, with a teacher that is the student
    quiet = s.context(teacher=s.context().voices["student"])
    assert torch.equal(picked(quiet, share=0.3), picked(quiet, share=0.3, by="entropy"))


def test_3_one_token_of_each_quadrant(tokens):
    flat, peak, other = torch.zeros(6), torch.tensor([9.0, 0, 0, 0, 0, 0]), torch.tensor([0, 0, 0, 0, 0, 9.0])
    mild = torch.tensor([0.3, 0, 0, 0, 0, 0])
    # unsure and wrong, unsure and nearly right, sure and wrong, sure and right
    ctx = tokens(torch.stack([flat, flat, peak, peak]), torch.stack([other, mild, other, peak]))
    assert picked(ctx, share=0.25, by="wrong").tolist() == [0, 0, 1, 0]
    assert picked(ctx, share=0.5, by="entropy").tolist() == [1, 1, 0, 0]
    assert picked(ctx, share=0.75, by="either").tolist() == [1, 1, 1, 0]


def test_4_one_outlier_does_not_press_the_scale():
    x = torch.linspace(0, 0.04, 200, dtype=torch.float64)
    x[7] = 1.0
    ctx = Noting(x)
    rest = torch.arange(200) != 7
    assert MinMax(Noted("x"))(ctx)[rest].max() < 0.05
    clipped = MinMax(Noted("x"), 0.02)(ctx)
    assert clipped[rest].max() > 0.99 and float(clipped[7]) == pytest.approx(1) and float(clipped.min()) == 0
    for share in (0.0, 0.3, 0.98, 1.0):
        assert float(quantile(x, share)) == pytest.approx(float(torch.quantile(x, share)))


def parts(s, some, **voices):
    """Prepared weights and the loss of one step over a setting."""
    update = Update((some,))
    ctx = s.context(**voices)
    plan = Plan.of(update, ctx.voices)
    (ready,), counts = prepare(plan, [s.batch], None, Progress())
    return plan, ready, counts


@pytest.mark.parametrize("by", SELECTORS)
def test_5_scores_get_no_gradient_and_left_out_tokens_exactly_zero(by, setting):
    s = setting()
    some = term(share=0.4, by=by)
    plan, ready, counts = parts(s, some)
    outcome = Outcome()
    loss_of(plan, ready, counts, None, Progress(), outcome).backward()
    mask = ready.coefficients[0] > 0
    assert float(counts[0]) == int(mask.sum()) == 5 == outcome.tallies["kl"].count
    hidden = s.hidden.detach().clone().requires_grad_()
    kl = kl_reverse((hidden @ s.weight.detach().T).log_softmax(-1), s.log_p())
    (kl[mask].mean()).backward()
    assert torch.equal(s.hidden.grad[~mask], torch.zeros_like(s.hidden.grad[~mask]))
    assert torch.allclose(s.hidden.grad, hidden.grad, atol=1e-12)


def test_6_left_out_tokens_cost_no_head_work_and_the_gradient_is_that_of_dense_and_mask(setting, monkeypatch):
    s = setting(num_units=50)
    plan, ready, counts = parts(s, term(share=0.2))
    rows = []
    raw = Head.raw
    monkeypatch.setattr(Head, "raw", lambda head, hidden, out=None: rows.append(len(hidden)) or raw(head, hidden, out))
    loss_of(plan, ready, counts, None, Progress(), Outcome()).backward()
    assert rows == [10, 10], "a row of student's and teacher's head for each kept token, and no other"
    hidden, weight = (t.detach().clone().requires_grad_() for t in (s.hidden, s.weight))
    kl = kl_reverse((hidden @ weight.T).log_softmax(-1), s.log_p())
    (kl * (ready.coefficients[0] > 0)).sum().div(10).backward()
    assert torch.allclose(s.hidden.grad, hidden.grad, atol=1e-5) and torch.allclose(s.weight.grad, weight.grad, atol=1e-5)


@pytest.mark.parametrize("by", SELECTORS)
def test_the_choice_does_not_depend_on_micro_batches(by, world):
    update = Update((term(share=0.3, by=by),))
    want, told = world.gradients(update)
    for how in ({"size": 1}, {"size": 2, "padding": "left"}, {"size": 3, "pack": True}):
        got, same = world.gradients(update, **how)
        assert worst(got, want) < 2e-6 and same.loss == pytest.approx(told.loss, rel=1e-5)
    assert len(split(world.records, 1)) > 1


class Noting:
    """A context that knows one note."""

    def __init__(self, x):
        self.x = x

    def __call__(self, signal):
        return self.x


def test_at_least_one_token_is_kept_and_shares_are_floored():
    assert [num_kept(0.1, n) for n in (0, 1, 9, 19, 20, 30)] == [0, 1, 1, 1, 2, 3]
    assert num_kept(0.7, 10) == 7 and num_kept(1.0, 13) == 13


def test_draws_are_in_proportion_and_without_replacement(setting):
    s = setting(num_units=6)
    s.batch.notes["tokens.w"] = torch.tensor([4.0, 2.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    first = torch.zeros(6, dtype=torch.float64)
    for step in range(3000):
        ctx = Context(s.batch, {}, {}, progress=Progress("t", step, 9))
        first += ctx(Draw(0.17, Noted("w")))
    want = s.batch.notes["tokens.w"] / 8
    assert torch.allclose(first / 3000, want, atol=0.03) and float(first[4:].sum()) == 0
    both = Context(s.batch, {}, {}, progress=Progress("t", 1, 9))
    assert float(both(Draw(0.99, Noted("w"))).sum()) == 5 and float(both(Draw(1.0, Noted("w"))).sum()) == 6
    again = Context(s.batch, {}, {}, progress=Progress("t", 1, 9))
    assert torch.equal(both(Draw(0.5, Noted("w"))), again(Draw(0.5, Noted("w"))))


def test_above_and_below_part_the_units(setting):
    ctx = setting().context()
    with torch.no_grad():
        kl = Match(kl_reverse)
        middle = float(ctx(kl).median())
        assert torch.equal(ctx(Above(kl, middle)) + ctx(Below(kl, middle)), torch.ones(13, dtype=torch.float64))
        assert float(ctx(Below(kl, middle)).sum()) == 7


def test_min_max_stays_in_its_range_on_one_unit_and_none(setting):
    for count in (0, 1):
        s = setting(num_units=count)
        s.batch.notes["tokens.x"] = torch.full((count,), 3.0)
        assert s.context()(MinMax(Noted("x"), 0.02)).tolist() == [0.0] * count


def test_wrong_settings_are_refused_when_built():
    for arguments in ({"share": 0.0}, {"share": 1.2}, {"clip_share": 1.0}, {"by": "eiher"}):
        with pytest.raises(SettingError):
            tip(**arguments)
    with pytest.raises(UnknownName, match="'either'"):
        tip(by="eiher")
    with pytest.raises(SettingError):
        Draw(0.0, Entropy())


def test_the_term_is_blind_to_who_writes_the_scores(setting):
    """A detached copy of the student as teacher: nothing to learn, and nothing goes wrong."""
    s = setting()
    some = replace(term(share=0.5), loss=Match(kl_reverse, p=Read("student")), per=kept(per_token))
    plan, ready, counts = parts(s, some)
    value = loss_of(plan, ready, counts, None, Progress(), Outcome())
    assert abs(float(value.detach())) < 1e-12 and float(ready.coefficients[0].sum()) == 6
    assert isinstance(Still(Entropy()).of, Entropy)


def test_powers_that_nothing_reads_are_refused():
    build("tip", {"by": "drawn", "entropy_power": 2.0})
    with pytest.raises(SettingError, match="powers with by='either'"):
        build("tip", {"entropy_power": 2.0})
