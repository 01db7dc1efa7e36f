"""PLD, check by check of its card; check 6 is tests/behaviour/test_pld.py."""

from __future__ import annotations

import itertools
import math
import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core.errors import SettingError, UnknownName
from tutelage.core.scores import Dense
from tutelage.recipes.pld import pld
from tutelage.signals.rankings import RankedChoice

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, Fixed = (KIT[n] for n in ("world", "worst", "setting", "stage", "Fixed"))
limit, trains, step, same = (KIT[n] for n in ("limit", "trains", "step", "same"))


def given(setting, s, t, y):
    """A context over given logits, student's first."""
    made = setting(num_units=len(s), num_categories=s.shape[1])
    made.hidden, made.teacher_hidden = s, t
    made.weight = made.teacher_weight = torch.eye(s.shape[1], dtype=s.dtype)
    made.batch.units["tokens"].target[:] = y
    return made.context()


def draw(rows=6, categories=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    s, t = (2 * torch.randn(rows, categories, generator=g, dtype=torch.float64) for _ in range(2))
    return s.requires_grad_(), t, torch.randint(categories, (rows,), generator=g)


def oracle(s, t, y, temperature=1.0):
    """The definition, choice by choice."""
    total = []
    for row, teacher, label in zip(s, t, y.tolist(), strict=True):
        order = [label, *(i for i in teacher.argsort(descending=True).tolist() if i != label)]
        weights = (teacher / temperature).softmax(0)
        total.append(sum(weights[c] * (row[order[k:]].logsumexp(0) - row[c]) for k, c in enumerate(order)))
    return torch.stack(total)


@limit("pld", "weighing=first: supervised.")
def test_1_the_first_choice_alone_is_cross_entropy(setting, step):
    s, t, y = draw()
    got = given(setting, s, t, y)(RankedChoice(by="first"))
    assert torch.allclose(got, torch.nn.functional.cross_entropy(s, y, reduction="none"), atol=1e-12)
    same(step(trains("pld", weighing="first")[0]), step(trains("supervised")[0]), 5e-6)


def test_2_constants_change_nothing_and_a_factor_changes_weights_only(setting):
    s, t, y = draw()
    value = given(setting, s, t, y)(RankedChoice())
    for a, b in ((s.detach() + 5, t), (s, t - 3)):
        assert torch.allclose(given(setting, a, b, y)(RankedChoice()), value, atol=1e-12)
    assert torch.allclose(given(setting, s, 3 * t, y)(RankedChoice()), oracle(s, 3 * t, y), atol=1e-10)
    even = given(setting, s, 3 * t, y)(RankedChoice(by="even"))
    assert torch.allclose(even, given(setting, s, t, y)(RankedChoice(by="even")), atol=1e-12), "the order is the same"


def test_3_with_even_weights_the_24_orders_are_a_distribution(setting):
    s, total = torch.randn(1, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64), 0.0
    for order in itertools.permutations(range(4)):
        t = torch.empty(1, 4, dtype=torch.float64)
        t[0, list(order)] = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
        value = 4 * given(setting, s, t, torch.tensor([order[0]]))(RankedChoice(by="even"))
        direct = math.prod(float(s[0, order[k]].exp() / s[0, list(order[k:])].exp().sum()) for k in range(4))
        assert math.exp(-float(value)) == pytest.approx(direct, rel=1e-6)
        total += math.exp(-float(value))
    assert total == pytest.approx(1, rel=1e-6)


def test_4_value_and_gradient_are_the_closed_form_sum_to_zero_and_convex(setting):
    s, t, y = draw()
    got, want = given(setting, s, t, y)(RankedChoice(2.0)), oracle(s, t, y, 2.0)
    assert torch.allclose(got, want, atol=1e-10)
    (a,), (b,) = (torch.autograd.grad(x.sum(), s) for x in (got, want))
    assert torch.allclose(a, b, atol=1e-10) and float(a.sum(-1).abs().max()) < 1e-12
    other = draw(seed=1)[0]
    middle = oracle((s + other) / 2, t, y)
    assert bool((middle <= (oracle(s, t, y) + oracle(other, t, y)) / 2 + 1e-12).all())


def test_5_the_labels_weight_is_the_teachers_small_probability_of_it(setting):
    t = torch.tensor([[5.0, 0.0, 1.0]], dtype=torch.float64)
    s = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    got = given(setting, s, t, torch.tensor([1]))(RankedChoice())
    assert float(got) == pytest.approx(float(oracle(s, t, torch.tensor([1]))), abs=1e-12)
    alone = float(-s.log_softmax(-1)[0, 1] * t.softmax(-1)[0, 1])
    assert float(got) > alone and float(t.softmax(-1)[0, 1]) < 0.01


def test_a_part_of_the_ranking_keeps_the_rest_as_one_choice(setting):
    s, t, y = draw(categories=12)
    got = given(setting, s, t, y)(RankedChoice(num_ranked=3))
    weights = t.softmax(-1)
    for row in range(len(s)):
        label = int(y[row])
        order = [label, *(i for i in t[row].argsort(descending=True).tolist() if i != label)]
        want = sum(weights[row, c] * (s[row, order[k:]].logsumexp(0) - s[row, c]) for k, c in enumerate(order[:4]))
        assert float(got[row].detach()) == pytest.approx(float(want.detach()), abs=1e-10)
    (grad,) = torch.autograd.grad(got.sum(), s)
    assert float(grad.sum(-1).abs().max()) < 1e-9
    whole = given(setting, s, t, y)(RankedChoice(num_ranked=11))
    assert torch.allclose(whole, oracle(s, t, y), atol=1e-6)


def test_tokens_that_both_rule_out_leave_it_finite(setting):
    s, t, _ = draw(rows=2)
    gone = torch.zeros(9, dtype=torch.bool).index_fill(0, torch.tensor([3]), True)
    made = setting(num_units=2, num_categories=9)
    made.batch.units["tokens"].target[:] = 0
    said = {name: Fixed(name, {"next": Dense(x.masked_fill(gone, -torch.inf).log_softmax(-1))}) for name, x in (("student", s), ("teacher", t))}
    got = made.context(**said)(RankedChoice())
    assert bool(torch.isfinite(got).all()) and torch.isfinite(torch.autograd.grad(got.sum(), s)[0]).all()


def test_splits_and_padding_change_nothing(world):
    update = stage("pld", num_ranked=5).updates[0]
    want, told = world.gradients(update)
    for how in ({"size": 2}, {"padding": "left"}, {"pack": True}):
        got, also = world.gradients(update, **how)
        assert worst(got, want) < 5e-6 and also.loss == pytest.approx(told.loss, rel=1e-5)


def test_settings_are_checked():
    for wrong in ({"temperature": 0.0}, {"num_ranked": 0}):
        with pytest.raises(SettingError):
            pld(**wrong)
    with pytest.raises(UnknownName, match="confident"):
        RankedChoice(by="confidence")
