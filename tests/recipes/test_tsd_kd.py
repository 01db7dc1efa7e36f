"""TSD-KD, check by check of its card; check 7 is tests/behaviour/test_tsd_kd.py."""

from __future__ import annotations

import itertools
import math
import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core.errors import SettingError
from tutelage.core.signal import Noted, Read
from tutelage.core.term import Term, Update
from tutelage.recipes.tsd_kd import tsd_kd
from tutelage.signals.apply import Apply
from tutelage.signals.divergences import Jensen
from tutelage.signals.match import Match, Top
from tutelage.signals.picks import Opening
from tutelage.signals.rankings import list_likelihood
from tutelage.signals.readouts import Entropy

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage = (KIT[n] for n in ("world", "worst", "setting", "stage"))
rollouts, context, limit = KIT["rollouts"], KIT["context"], KIT["limit"]


def update(**arguments) -> Update:
    return stage("tsd_kd", max_tokens=6, **arguments).updates[0]


@limit("tsd_kd", "gated=false, entropy_scale=0, rank_scale=0: gkd with student_share=1.")
def test_1_without_its_parts_it_is_gkd_on_own_answers(world):
    rows, plain = rollouts(world), update(gated=False, entropy_scale=0.0, rank_scale=0.0)
    want, _ = world.gradients(Update((Term("jensen", Match(Jensen(0.9))),)), rows=rows)
    assert worst(world.gradients(plain, rows=rows)[0], want) < 1e-6
    assert plain.objective[0].loss == stage("gkd", student_share=1.0, beta=0.9).updates[0].objective[0].loss
    assert worst(world.gradients(update(), rows=rows)[0], want) > 1e-3


def test_2_three_ranked_worths_by_brute_force():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(3, generator=g, dtype=torch.float64)
    values = {}
    for order in itertools.permutations(range(3)):
        p = torch.empty(3, dtype=torch.float64)
        p[list(order)] = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
        values[order] = float(list_likelihood(z, p))
        steps, left = 0.0, list(order)
        while left:
            steps += math.log(sum(math.exp(float(z[i])) for i in left)) - float(z[left[0]])
            left.pop(0)
        assert values[order] == pytest.approx(steps, abs=1e-12)
        assert float(list_likelihood(z + 7, p)) == pytest.approx(steps, abs=1e-12)
    assert sum(math.exp(-v) for v in values.values()) == pytest.approx(1, abs=1e-12)


def test_3_agreement_costs_little_and_the_reverse_order_much():
    p = torch.arange(6.0).double()
    near, far = (float(list_likelihood(scale * p, p)) for scale in (1.0, 30.0))
    assert far < 1e-9 < near < float(list_likelihood(-p, p))


def test_4_the_gate_is_half_at_equal_entropies_and_rises_with_the_students(setting):
    s = setting(num_units=3, num_categories=3)
    sharp, flat = torch.tensor([4.0, 0, 0]), torch.tensor([0.0, 0, 0])
    s.hidden = torch.stack([sharp, flat, sharp]).double().requires_grad_()
    s.teacher_hidden = torch.stack([sharp, sharp, flat]).double()
    s.weight = s.teacher_weight = torch.eye(3, dtype=torch.float64)
    gate = update().objective[0].weight
    assert gate == Apply("sigmoid", Entropy() - Entropy(Read("teacher")))
    value = s.context().still(gate)
    assert value[0] == 0.5 and value[1] > 0.5 > value[2] and not value.requires_grad


def test_5_the_opening_of_even_entropies_is_a_tenth_of_each_answer(setting):
    s = setting(num_units=150)
    row = torch.cat([torch.zeros(100), torch.full((50,), 2.0)]).long()
    s.batch.units["tokens"].row[:] = row
    s.batch.units["tokens"].time[:] = torch.cat([torch.arange(100), torch.arange(50)])
    s.batch.notes["tokens.h"] = torch.ones(150, dtype=torch.float64)
    found = s.context()(Opening(0.1, Noted("h")))
    assert found[:100].tolist() == [1.0] * 10 + [0.0] * 90 and found[100:].tolist() == [1.0] * 5 + [0.0] * 45
    s.batch.notes["tokens.h"][100:] = 0
    again = s.context()(Opening(0.1, Noted("h")))
    assert again[:100].tolist() == found[:100].tolist() and again[100:].tolist() == [1.0] + [0.0] * 49
    s.batch.notes["tokens.h"][0] = 1e9
    assert s.context()(Opening(0.1, Noted("h")))[:3].tolist() == [1, 0, 0], "the first token is always in"
    assert s.context()(Opening(1.0, Noted("h"))).tolist() == [1.0] * 100 + [1.0] + [0.0] * 49
    with pytest.raises(SettingError):
        Opening(0.0, Noted("h"))


def test_6_entropy_is_lowered_where_it_is_largest_and_nowhere_else(setting):
    s = setting()
    term = next(t for t in update(unsure_share=0.3).objective if t.name == "entropy")
    ctx = s.context()
    chosen, entropy = ctx.still(term.weight), ctx(term.loss)
    assert int(chosen.sum()) == 3 and float(entropy[chosen > 0].min()) >= float(entropy[chosen == 0].max())
    z = s.log_q().detach().requires_grad_()
    s.hidden, s.weight = z, torch.eye(11, dtype=torch.float64)
    (grad,) = torch.autograd.grad((s.context()(term.loss) * chosen).sum(), z)
    assert float(grad[chosen == 0].abs().max()) == 0
    s.hidden = (z - 0.1 * grad).detach().requires_grad_()
    after = s.context().still(term.loss)
    assert bool((after[chosen > 0] < entropy[chosen > 0]).all())


def test_the_ranking_takes_the_students_candidates_in_the_teachers_order(setting):
    s = setting()
    ranking = next(t.loss for t in update(num_ranked=4).objective if t.name == "ranking")
    assert ranking == Match(list_likelihood, on=Top(4, of="student", rest="drop"))
    q, p = s.log_q(), s.log_p()
    ids = q.detach().topk(4, -1).indices
    order = p.gather(1, ids).argsort(-1, descending=True)
    z = q.gather(1, ids.gather(1, order))
    want = sum(z[:, i:].logsumexp(-1) - z[:, i] for i in range(4))
    got = s.context()(ranking)
    assert torch.allclose(got, want, atol=1e-10)
    for a, b in zip(*(torch.autograd.grad(x.sum(), (s.hidden, s.weight)) for x in (got, want)), strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_splits_and_padding_change_nothing(world):
    rows = rollouts(world)
    want, told = world.gradients(update(), rows=rows)
    assert {"direct", "entropy", "ranking"} <= told.tallies.keys()
    for how in ({"size": 2}, {"padding": "left"}, {"size": 2, "pack": True}):
        got, same = world.gradients(update(), rows=rows, **how)
        assert worst(got, want) < 5e-6 and same.loss == pytest.approx(told.loss, rel=1e-5)


def test_settings_are_checked():
    for wrong in ({"num_ranked": 1}, {"entropy_scale": -1.0}, {"rank_scale": -1.0}, {"unsure_share": 0.0}, {"opening_share": 2.0}):
        with pytest.raises(SettingError):
            tsd_kd(**wrong)
