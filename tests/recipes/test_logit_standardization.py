"""Logit standardisation, check by check of its card; check 6 is tests/behaviour/test_logit_standardization.py."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core.errors import SettingError
from tutelage.core.signal import Read
from tutelage.recipes.logit_standardization import logit_standardization
from tutelage.signals.divergences import Tempered, kl_forward
from tutelage.signals.match import Match

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage = (KIT[n] for n in ("world", "worst", "setting", "stage"))
limit, trains, step, same = (KIT[n] for n in ("limit", "trains", "step", "same"))
LOSS = stage("logit_standardization", temperature=2.0).updates[0].objective[0].loss


def given(setting, s, t):
    made = setting(num_units=len(s), num_categories=s.shape[1])
    made.hidden, made.teacher_hidden = s, t
    made.weight = made.teacher_weight = torch.eye(s.shape[1], dtype=s.dtype)
    return made.context()


def draw(rows=6, categories=9):
    g = torch.Generator().manual_seed(0)
    s, t = (2 * torch.randn(rows, categories, generator=g, dtype=torch.float64) for _ in range(2))
    return s.requires_grad_(), t


def test_1_affine_changes_of_either_sides_logits_change_nothing(setting):
    s, t = draw()
    value = given(setting, s, t)(LOSS)
    assert torch.allclose(given(setting, 3 * s.detach() - 4, 0.2 * t + 7)(LOSS), value, atol=1e-5)
    plain = Match(Tempered(kl_forward, 2.0))
    assert not torch.allclose(given(setting, 3 * s.detach() - 4, t)(plain), given(setting, s, t)(plain), atol=1e-2)


def test_2_a_scaled_and_shifted_teacher_is_matched_already(setting):
    s, _ = draw()
    value = given(setting, s, 3 * s.detach() + 1)(LOSS)
    (grad,) = torch.autograd.grad(value.sum(), s)
    assert float(value.abs().max()) < 1e-9 and float(grad.abs().max()) < 1e-7


def test_3_the_gradient_moves_neither_mean_nor_scale_and_is_autograds(setting):
    s, t = draw()
    (grad,) = torch.autograd.grad(given(setting, s, t)(LOSS).sum(), s)
    centred = s.detach() - s.detach().mean(-1, keepdim=True)
    assert float(grad.sum(-1).abs().max()) < 1e-6 and float((grad * centred).sum(-1).abs().max()) < 1e-6

    def z(x):
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-7) / 2

    q, p = z(s).log_softmax(-1), z(t).log_softmax(-1)
    (want,) = torch.autograd.grad((p.exp() * (p - q)).sum(), s)
    assert torch.allclose(grad, want, atol=1e-10)


def test_4_the_deviation_is_the_samples():
    from tutelage.core.mapped import Standard
    from tutelage.core.scores import Dense

    said = Standard(Dense(torch.tensor([[0.0, 1.0]], dtype=torch.float64))).logits(slice(None))
    assert said[0].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], abs=1e-6)
    flat = Standard(Dense(torch.zeros(1, 3))).at(slice(None))
    assert torch.allclose(flat.exp(), torch.full((1, 3), 1 / 3))


def test_5_without_the_lens_it_is_plain_distillation(world):
    made = stage("logit_standardization", temperature=2.0, kd_scale=1.0, ce_scale=0.0).updates[0]
    (term,) = made.objective
    bare = replace(term, loss=Match(Tempered(kl_forward, 2.0), Read("student"), Read("teacher")), scale=1.0)
    want, _ = world.gradients(stage("forward_kl", temperature=2.0).updates[0])
    assert worst(world.gradients(replace(made, objective=(bare,)))[0], want) < 1e-6
    assert worst(world.gradients(made)[0], want) > 1e-3


@limit("logit_standardization", "kd_scale=0, ce_scale=1: supervised.")
def test_labels_alone(step):
    same(step(trains("logit_standardization", kd_scale=0.0, ce_scale=1.0)[0]), step(trains("supervised")[0]))


def test_splits_and_padding_change_nothing(world):
    update = stage("logit_standardization").updates[0]
    want, told = world.gradients(update)
    for how in ({"size": 2}, {"padding": "left"}, {"pack": True}):
        got, also = world.gradients(update, **how)
        assert worst(got, want) < 5e-6 and also.loss == pytest.approx(told.loss, rel=1e-5)


def test_settings_are_checked():
    for wrong in ({"kd_scale": -1.0}, {"kd_scale": 0.0, "ce_scale": 0.0}, {"temperature": 0.0}):
        with pytest.raises(SettingError):
            logit_standardization(**wrong)
