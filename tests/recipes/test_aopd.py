"""AOPD, check by check of its card; check 6 is tests/behaviour/test_aopd.py."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core.errors import SettingError
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update, per_row
from tutelage.recipes.aopd import aopd
from tutelage.signals.apply import Apply
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match, Top
from tutelage.signals.policy import ScoreFunction
from tutelage.signals.readouts import LogProb, gap

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, Fixed, stage = (KIT[n] for n in ("world", "worst", "setting", "Fixed", "stage"))
rollouts, context, limit, step, same = (KIT[n] for n in ("rollouts", "context", "limit", "step", "same"))


def update(**arguments) -> Update:
    return stage("aopd", max_tokens=6, **arguments).updates[0]


@limit("aopd", "tau=-1: the gradient of the policy gradient whose advantage is the log-ratio, a mean over answers.")
def test_1_a_bound_of_minus_1_is_plain_on_policy_distillation(world):
    rows = rollouts(world)
    plain, _ = world.gradients(Update((Term("opd", ScoreFunction(gap()), per=per_row),)), rows=rows)
    got, told = world.gradients(update(tau=-1.0), rows=rows)
    assert worst(got, plain) < 1e-6 and told.tallies["imitated"].mean == 0
    other, _ = world.gradients(update(), rows=rows)
    assert worst(other, plain) > 1e-3


@limit("aopd", "tau=1 and k the whole vocabulary: forward KL on the student's own answers, a mean over answers.")
def test_1_a_bound_of_1_is_forward_kl_on_the_students_answers(world):
    rows, many = rollouts(world), world.pair.student.head.num_categories
    whole, _ = world.gradients(Update((Term("kl", Match(kl_forward), per=per_row),)), rows=rows)
    got, told = world.gradients(update(tau=1.0, num_kept=many), rows=rows)
    assert worst(got, whole) < 2e-6 and told.tallies["imitated"].mean == 1
    some, _ = world.gradients(Update((Term("kl", Match(kl_forward, on=Top(3, rest="drop")), per=per_row),)), rows=rows)
    assert worst(world.gradients(update(tau=1.0, num_kept=3), rows=rows)[0], some) < 2e-6


def test_2_the_sign_of_the_advantage_is_the_gate(world):
    ctx = context(world, rollouts(world))
    gain = Apply("exp", LogProb(Read("teacher"))) - Apply("exp", LogProb())
    assert torch.equal(ctx(gain) <= 0, ctx(gap()) <= 0) and 0 < int((ctx(gap()) <= 0).sum()) < len(ctx(gap()))


def test_3_gradients_in_the_logits_are_the_two_closed_forms(setting):
    s = setting()
    loss = update(num_kept=11).objective[0].loss
    # an identity head: the states are the logits
    z = s.log_q().detach().requires_grad_()
    s.hidden, s.weight = z, torch.eye(11, dtype=torch.float64)
    s.teacher_hidden, s.teacher_weight = s.log_p(), torch.eye(11, dtype=torch.float64)
    ctx = s.context()
    (got,) = torch.autograd.grad(ctx(loss).sum(), z)
    q, p = s.log_q().exp().detach(), s.log_p().exp()
    target = s.batch.units["tokens"].target
    chosen = torch.nn.functional.one_hot(target, 11)
    advantage = (p.log() - q.log()).gather(1, target[:, None])
    gated = advantage <= 0
    want = torch.where(gated, q - p, -advantage * (chosen - q))
    assert 0 < int(gated.sum()) < len(gated) and torch.allclose(got, want, atol=1e-10)


def test_4_the_black_hole_the_teachers_mode_is_raised_and_not_the_students_second_choice(setting):
    s = setting(num_units=1, num_categories=5)
    q = torch.tensor([[0.9, 0.0999, 0.00004, 0.00003, 0.00003]], dtype=torch.float64)
    p = torch.tensor([[0.05, 0.05, 0.8, 0.05, 0.05]], dtype=torch.float64)
    z = q.log().requires_grad_()
    s.hidden, s.teacher_hidden = z, p.log()
    s.weight = s.teacher_weight = torch.eye(5, dtype=torch.float64)
    s.batch.units["tokens"].target.fill_(0)
    (plain,) = torch.autograd.grad(s.context()(ScoreFunction(gap())).sum(), z)
    (ours,) = torch.autograd.grad(s.context()(update(num_kept=5).objective[0].loss).sum(), z)
    plain, ours = -plain[0], -ours[0]
    assert float(plain[1] / plain[2]) == pytest.approx(0.0999 / 0.00004, rel=1e-3) and plain[0] < 0
    assert int(ours.argmax()) == 2 and ours[2] > 0.79


def test_5_the_teacher_gets_no_gradient_and_padding_and_splits_change_nothing(world):
    rows = rollouts(world)
    want, told = world.gradients(update(), rows=rows)
    for how in ({"size": 2}, {"padding": "left"}, {"size": 3, "pack": True}):
        got, also = world.gradients(update(), rows=rows, **how)
        assert worst(got, want) < 5e-6 and also.loss == pytest.approx(told.loss, rel=1e-4, abs=1e-6)
    assert all(p.grad is None for p in world.pair.teacher.model.parameters())


def test_5_a_row_without_imitated_tokens_has_no_divergence(world):
    ctx = context(world, rollouts(world))
    everything = update(tau=-1.0).objective[0].loss
    sampled = ctx(everything)
    assert torch.allclose(sampled, -ctx(gap()), atol=1e-6), "the value at the writer's own weights is minus the advantage"


def test_several_updates_of_a_round_read_what_was_noted(world):
    made = stage("aopd", max_tokens=4, reuse=2)
    assert [s.name for s in made.source.steps[1:]] == ["old", "taught"]
    rows = rollouts(world)
    noted = []
    for row in rows:
        answer = row.pieces[-1]
        notes = {**answer.notes, "old": (-1.0,) * len(answer.ids), "taught": (-3.0,) * len(answer.ids)}
        noted.append(replace(row, pieces=(row.pieces[0], replace(answer, notes=notes))))
    _, told = world.gradients(made.updates[0], rows=noted)
    assert told.tallies["imitated"].mean == 1, "the gate is the noted one"


def test_settings_are_checked():
    with pytest.raises(SettingError, match="probabilities"):
        aopd(tau=2.0)
    with pytest.raises(SettingError):
        aopd(num_kept=0)
