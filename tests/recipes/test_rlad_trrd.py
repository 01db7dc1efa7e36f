"""RLAD, check by check of its card; checks 7 and 8 are tests/behaviour/test_rlad_trrd.py."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core.errors import SettingError
from tutelage.core.signal import Noted, Still
from tutelage.core.term import Term, Update
from tutelage.recipes.rlad_trrd import rlad_trrd
from tutelage.signals.policy import Clipped
from tutelage.signals.pools import GroupNorm
from tutelage.signals.readouts import LogProb

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, size = (KIT[n] for n in ("world", "worst", "setting", "stage", "size"))
rollouts, limit = KIT["rollouts"], KIT["limit"]
RIGHT = Noted("right", "rows")
GRPO = Update((Term("policy", Clipped(GroupNorm(RIGHT, epsilon=1e-6), Still(LogProb()))),))


def update(**arguments) -> Update:
    return stage("rlad_trrd", max_tokens=6, **{"reuse": 1, "anchor_scale": 0.0, **arguments}).updates[0]


@limit("rlad_trrd", "alpha=1: GRPO, whatever the teacher.")
def test_1_alpha_1_is_grpo_whatever_the_teacher(world):
    rows = rollouts(world)
    want, told = world.gradients(GRPO, rows=rows)
    got, same = world.gradients(update(alpha=1.0), rows=rows)
    assert worst(got, want) < 1e-6 and same.tallies["policy"].mean == pytest.approx(told.loss, rel=1e-6)
    with torch.no_grad():
        world.pair.teacher.model.model.norm.weight *= 2
    assert worst(world.gradients(update(alpha=1.0), rows=rows)[0], want) < 1e-6
    assert worst(world.gradients(update(alpha=0.5), rows=rows)[0], want) > 1e-3


def test_2_a_teacher_like_the_old_student_leaves_the_usual_ratio(world):
    world.ws.models["teacher"] = world.pair.student
    rows = rollouts(world)
    want, _ = world.gradients(GRPO, rows=rows)
    for alpha in (0.0, 0.3, 0.5):
        assert worst(world.gradients(update(alpha=alpha), rows=rows)[0], want) < 1e-6


def clipped(setting, advantage, old, taught, alpha=0.5, most=10.0):
    """One unit's loss and gradient in the logits, with its target's log-probabilities given."""
    s = setting(num_units=1, num_rows=1, num_categories=3)
    q = torch.tensor([[math.exp(old), (1 - math.exp(old)) / 2, (1 - math.exp(old)) / 2]], dtype=torch.float64)
    z = q.log().requires_grad_()
    s.hidden, s.weight = z, torch.eye(3, dtype=torch.float64)
    s.batch.units["tokens"].target.fill_(0)
    value = lambda x: torch.full((1,), x, dtype=torch.float64)
    s.batch.notes.update({"tokens.old": value(old), "tokens.taught": value(taught), "tokens.a": value(advantage)})
    loss = Clipped(Noted("a"), alpha * Noted("old") + (1 - alpha) * Noted("taught"), most=most)
    said = s.context()(loss)
    (grad,) = torch.autograd.grad(said.sum(), z)
    return float(said.detach()), grad[0], q[0], math.exp((1 - alpha) * (old - taught))


@pytest.mark.parametrize(
    ("advantage", "taught", "active"),
    [(1.0, -3.0, False), (1.0, -0.5, True), (-1.0, -0.2, False), (-1.0, -3.0, True)],
    ids=["right, doubted", "right, favoured", "wrong, favoured", "wrong, doubted"],
)
def test_3_four_cases_at_the_old_student(setting, advantage, taught, active):
    _, grad, q, ratio = clipped(setting, advantage, math.log(0.4), taught)
    want = -advantage * ratio * (torch.eye(3, dtype=torch.float64)[0] - q)
    assert torch.allclose(grad, want if active else torch.zeros_like(grad), atol=1e-12)
    assert (ratio > 1.2 if taught == -3.0 else ratio < 0.8 if taught == -0.2 else True)


def test_4_equal_rewards_move_nothing_however_far_the_teacher_is(world):
    for grade in (0, 1):
        grads, _ = world.gradients(update(), rows=rollouts(world, [grade] * 5))
        assert size(grads) == 0


def test_5_logs_equal_products_and_extreme_gaps_stay_finite(setting):
    old, taught, alpha = math.log(0.4), math.log(0.05), 0.3
    value, *_ = clipped(setting, -1.0, old, taught, alpha)
    assert value == pytest.approx(0.4 / (0.4**alpha * 0.05 ** (1 - alpha)), rel=1e-6)  # constants are float32
    value, grad, *_ = clipped(setting, -1.0, old, -40.0)
    assert value == pytest.approx(math.exp(10)) and float(grad.abs().max()) == 0, "beyond the bound nothing moves"
    value, *_ = clipped(setting, -1.0, old, -40.0, most=math.inf)
    assert value == pytest.approx(math.exp(0.5 * (old + 40)))


def test_6_padding_and_splits_change_nothing_and_the_teacher_gets_no_gradient(world):
    rows = rollouts(world)
    want, told = world.gradients(update(), rows=rows)
    for how in ({"padding": "left"}, {"size": 2}, {"size": 2, "pack": True}):
        got, same = world.gradients(update(), rows=rows, **how)
        assert worst(got, want) < 5e-6 and same.loss == pytest.approx(told.loss, rel=1e-4, abs=1e-6)
    assert all(p.grad is None for p in world.pair.teacher.model.parameters())


def test_the_anchor_holds_the_student_at_its_start(world):
    made = stage("rlad_trrd", max_tokens=6, reuse=1, anchor_scale=0.5)
    rows = rollouts(world)
    _, told = world.gradients(made.updates[0], rows=rows, voices=made.voices)
    assert told.tallies["anchor"].mean == 0, "it has not moved yet"
    with torch.no_grad():
        world.pair.student.model.model.norm.weight *= 1.5
    _, told = world.gradients(made.updates[0], rows=rows, voices=made.voices)
    assert told.tallies["anchor"].mean > 0
    assert {"right", "all alike", "teacher gap"} == {n for n, _ in made.updates[0].watch}


def test_a_second_update_reads_the_old_student_and_the_teacher_from_notes(world):
    made = stage("rlad_trrd", max_tokens=6, reuse=2, anchor_scale=0.0)
    rows = [
        replace(r, pieces=(r.pieces[0], replace(r.pieces[1], notes={**r.pieces[1].notes, "old": (-2.0,) * len(r.pieces[1].ids), "taught": (-2.0,) * len(r.pieces[1].ids)})))
        for r in rollouts(world)
    ]
    one, _ = world.gradients(made.updates[0], rows=rows)
    with torch.no_grad():
        world.pair.teacher.model.model.norm.weight *= 2
    assert worst(world.gradients(made.updates[0], rows=rows)[0], one) == 0


def test_settings_are_checked():
    for wrong in ({"alpha": 1.5}, {"anchor_scale": -1.0}, {"rollouts": 1}):
        with pytest.raises(SettingError, match="rlad_trrd"):
            rlad_trrd(**wrong)
    with pytest.raises(SettingError, match="most"):
        Clipped(RIGHT, RIGHT, most=0.0)
