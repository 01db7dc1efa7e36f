"""The kernel, interpreted on the processor, equals the closed forms, and these equal autograd in float64."""

import pytest
import torch
from benchmarks.head import Inputs, Says

from tutelage.core import node
from tutelage.core.batch import Batch, Units
from tutelage.core.context import Context
from tutelage.core.describe import describe
from tutelage.core.scores import Head, Lazy
from tutelage.signals import match
from tutelage.signals.divergences import (
    Jensen,
    SkewedForward,
    SkewedReverse,
    Tempered,
    cross_entropy,
    kl_forward,
    kl_reverse,
    total_variation,
)
from tutelage.signals.divergences import launch as launching
from tutelage.signals.divergences.closed import closed_form
from tutelage.signals.divergences.launch import launch_of, usable

COMPARES = [
    kl_forward, kl_reverse, Jensen(0.0), Jensen(0.3), Jensen(0.9), Jensen(1.0), SkewedForward(0.0), SkewedForward(0.1),
    SkewedReverse(0.0), SkewedReverse(0.4), Tempered(kl_forward, 2.0), Tempered(Jensen(0.5), 0.7, scaled=False),
]


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # the processor runs the kernel by Triton's interpreter


@pytest.fixture
def kernels(monkeypatch):
    """The loss node uses the kernel wherever the logits are."""
    pytest.importorskip("triton")
    monkeypatch.setattr(match, "usable", lambda raw: True)


def draw(rows, size, scale=3.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, size, generator=g) * scale for _ in range(2)]


def exact(compare, raw_q, raw_p, heads, coefficients):
    """Values and weighted gradient in the learner's raw logits, by float64 autograd."""
    raw = raw_q.double().clone().requires_grad_()
    log_q, log_p = (h.squash(z).log_softmax(-1) for h, z in zip(heads, (raw, raw_p.double()), strict=True))
    value = compare(log_q, log_p)
    (value * coefficients.double()).sum().backward()
    return value.detach(), raw.grad


@pytest.mark.parametrize("compare", [*COMPARES, cross_entropy], ids=describe)
def test_closed_forms_equal_autograd(compare):
    z_q, z_p = (t.double() for t in draw(6, 37))
    z_q[0] = z_p[0]  # equal sides
    heads = (Head(torch.empty(37, 1)),) * 2
    want, slope = exact(compare, z_q, z_p, heads, torch.ones(6))
    value, got = closed_form(compare)(z_q, z_p)
    assert torch.allclose(value, want, atol=1e-12) and torch.allclose(got, slope, atol=1e-12)


@pytest.mark.parametrize("compare", COMPARES, ids=describe)
def test_closed_forms_hold_where_probabilities_underflow(compare):
    z_q, z_p = torch.tensor([[0.0, -200.0, 3.0]]), torch.tensor([[1.0, -300.0, -250.0]])
    heads = (Head(torch.empty(3, 1)),) * 2
    want, slope = exact(compare, z_q, z_p, heads, torch.ones(1))
    value, got = closed_form(compare)(z_q, z_p)
    assert torch.allclose(value.double(), want, rtol=1e-5) and torch.allclose(got.double(), slope, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compare", COMPARES, ids=describe)
@pytest.mark.parametrize("size", [5, 4096, 9001])
def test_kernel_equals_float64_autograd(compare, size, kernels):
    raw_q, raw_p = (t.to(DEVICE) for t in draw(3, size))
    coefficients = torch.tensor([0.5, -2.0, 0.0], device=DEVICE)
    heads = Head(torch.empty(size, 1), scale=0.5, cap=7.0), Head(torch.empty(size, 1), scale=1.3)
    want, slope = exact(compare, raw_q, raw_p, heads, coefficients)
    value = launch_of(compare)(raw_q, heads[0], raw_p, heads[1], coefficients)
    assert torch.allclose(value.double(), want, atol=2e-6, rtol=2e-5)
    assert float((raw_q - slope).norm() / slope.norm()) < 5e-6


def total(inputs):
    value = inputs.ours(Jensen(0.3))
    return value.detach(), inputs.gradients(value)


def test_kernel_runs_inside_the_node(kernels, monkeypatch):
    inputs = Inputs.seeded(13, 8, 19, device=DEVICE)
    calls = []
    original = launching.Launch.__call__
    monkeypatch.setattr(launching.Launch, "__call__", lambda *a: calls.append(1) or original(*a))
    fused, got = total(inputs)
    assert calls
    monkeypatch.setattr(match, "usable", lambda raw: False)
    calls.clear()
    plain, grads = total(inputs)
    assert not calls
    assert torch.allclose(plain, fused, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(grads, got, strict=True))


def test_kernels_only_where_they_can_run():
    assert not usable(torch.zeros(2, 3))
    assert launch_of(total_variation) is None and closed_form(total_variation) is None


def test_a_bias_that_excludes_a_category_takes_the_general_road(kernels):
    bias = torch.zeros(19)
    bias[3] = -torch.inf
    inputs, want = Inputs.seeded(5, 8, 19), Inputs.seeded(5, 8, 19)
    scores = {
        who: Lazy(hidden, Head(weight, bias))
        for who, hidden, weight in (
            ("student", inputs.hidden, inputs.weight),
            ("teacher", inputs.teacher_hidden, inputs.teacher_weight),
        )
    }
    batch = Batch((), {"tokens": Units(torch.zeros(5, dtype=torch.long), torch.arange(5))}, {})
    ctx = Context(batch, {who: Says(who, said) for who, said in scores.items()}, {}, frozenset({"student"}))
    value, _ = node.total(ctx, "tokens", [match.Match(kl_forward)], torch.ones(1, 5))
    inside = torch.arange(19) != 3
    logs = [(h @ w[inside].T).log_softmax(-1) for h, w in ((want.hidden, want.weight), (want.teacher_hidden, want.teacher_weight))]
    exact = kl_forward(*logs).sum()
    assert torch.allclose(value, exact, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(inputs.gradients(value), want.gradients(exact), strict=True))
