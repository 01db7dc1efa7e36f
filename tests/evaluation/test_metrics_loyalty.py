"""Loyalty against loops in float64 and known answers."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from tutelage.core.scores import Dense
from tutelage.evaluation.evaluate import evaluate
from tutelage.evaluation.metrics.loyalty import Loyalty, answer_loyalty, kappa
from tutelage.evaluation.metrics.positions import measure
from tutelage.models.sample import Sampling


@pytest.fixture
def scores():
    g = torch.Generator().manual_seed(0)
    q, p = ((3 * torch.randn(200, 7, generator=g, dtype=torch.float64)).log_softmax(-1) for _ in range(2))
    p[:80] = q[:80]
    return q, p, torch.randint(7, (200,), generator=g)


def test_every_figure_against_a_loop(scores):
    q, p, y = scores
    found = Loyalty.of(measure(Dense(q), Dense(p), y)).result()
    s, t, y = q.argmax(-1).tolist(), p.argmax(-1).tolist(), y.tolist()
    right = [a == c for a, c in zip(t, y, strict=True)]
    same = [a == b for a, b in zip(s, t, strict=True)]
    assert found["label"] == pytest.approx(sum(same) / 200)
    assert found["on_right"] == pytest.approx(sum(x for x, r in zip(same, right, strict=True) if r) / sum(right))
    assert found["on_wrong"] == pytest.approx(sum(x for x, r in zip(same, right, strict=True) if not r) / (200 - sum(right)))
    near = [1 - jensenshannon(a, b, base=2) for a, b in zip(q.exp().numpy(), p.exp().numpy(), strict=True)]
    near = [1.0 if math.isnan(x) else x for x in near]  # scipy's root of a rounding below 0
    assert found["probability"] == pytest.approx(sum(near) / 200, abs=1e-6)
    own = [a == c for a, c in zip(s, y, strict=True)]
    assert (found["teacher_accuracy"], found["student_accuracy"]) == (pytest.approx(sum(right) / 200), pytest.approx(sum(own) / 200))
    a, b = sum(right) / 200, sum(own) / 200
    chance = a * b + (1 - a) * (1 - b)
    both = sum(x == z for x, z in zip(own, right, strict=True)) / 200
    assert found["consistency"] == pytest.approx((both - chance) / (1 - chance))


def test_batches_add(scores):
    q, p, y = scores
    parts = [Loyalty.of(measure(Dense(q[i : i + 33]), Dense(p[i : i + 33]), y[i : i + 33])) for i in range(0, 200, 33)]
    total = sum(parts[1:], parts[0]).result()
    assert total == pytest.approx(Loyalty.of(measure(Dense(q), Dense(p), y)).result())


def test_the_teacher_itself_is_wholly_loyal_and_nothing_is_nan_at_the_ends(scores):
    _, p, y = scores
    found = Loyalty.of(measure(Dense(p), Dense(p), y)).result()
    assert [v for k, v in found.items() if "accuracy" not in k] == pytest.approx([1.0] * 5, abs=1e-6)
    one = torch.full((2, 3), -math.inf)
    one[:, 0], other = 0.0, torch.full((2, 3), -math.inf)
    other[:, 1] = 0.0
    found = Loyalty.of(measure(Dense(one), Dense(other), torch.tensor([1, 1]))).result()
    assert found["probability"] == pytest.approx(0, abs=1e-7) and found["label"] == found["on_right"] == 0
    assert math.isnan(found["on_wrong"]) and math.isnan(Loyalty().result()["label"])


def test_kappa():
    assert kappa(0.5, 0.5, 0.5) == 0 and kappa(0.5, 0.5, 1.0) == 1 and kappa(1.0, 1.0, 1.0) == 1
    assert kappa(0.8, 0.6, 0.8) == pytest.approx((0.8 - 0.56) / 0.44)


def test_answers_come_to_the_teachers_conclusion():
    references = ["#### 4", "#### 5", "#### 6", "#### 7"]
    taught = ["So 4.", "It is 9", "6", "no idea"]
    found = answer_loyalty(["It is 4", "I say 9.0", "61", "no idea"], taught, references)
    assert found == {"num": 4, "label": 0.75, "on_right": 0.5, "on_wrong": 1.0}
    assert answer_loyalty([], [], []) == {} and math.isnan(answer_loyalty(["1"], ["1"], ["1"])["on_wrong"])


def test_evaluate_reports_it(pair, records, collate):
    found = evaluate({"same": pair[0], "other": pair[1]}, pair[0], records, collate, num_samples=3, sampling=Sampling(max_tokens=4, temperature=0.0))
    assert found["same"]["loyalty"]["label"] == 1 == pytest.approx(found["same"]["loyalty"]["probability"], abs=1e-3)
    assert found["other"]["loyalty"]["label"] == pytest.approx(found["other"]["fidelity"]["top1"])
    assert found["same"]["text"]["loyalty"] == {"num": 3, "label": 1.0, "on_right": found["same"]["text"]["loyalty"]["on_right"], "on_wrong": 1.0}
