"""Every divergence through one table: its promises, its gradient, an oracle written as loops in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core.errors import SettingError
from tutelage.signals.divergences import (
    Alpha,
    Jensen,
    Renyi,
    SkewedForward,
    SkewedReverse,
    Tempered,
    hellinger,
    kl_forward,
    kl_reverse,
    total_variation,
)


def kl(a, b):
    return sum(x * (math.log(x) - math.log(y)) for x, y in zip(a, b) if x > 0)


def mix(a, b, w):
    return [w * x + (1 - w) * y for x, y in zip(a, b)]


def soft(a, t):
    powers = [x ** (1 / t) for x in a]
    return [x / sum(powers) for x in powers]


# divergence -> (q, p as lists of probabilities) -> value, written without torch
TABLE = {
    "kl_forward": (kl_forward, lambda q, p: kl(p, q)),
    "kl_reverse": (kl_reverse, lambda q, p: kl(q, p)),
    "jensen .1": (Jensen(0.1), lambda q, p: 0.1 * kl(p, mix(p, q, 0.1)) + 0.9 * kl(q, mix(p, q, 0.1))),
    "jensen .5": (Jensen(0.5), lambda q, p: 0.5 * kl(p, mix(p, q, 0.5)) + 0.5 * kl(q, mix(p, q, 0.5))),
    "jensen 0": (Jensen(0), lambda q, p: kl(p, q)),
    "jensen 1": (Jensen(1), lambda q, p: kl(q, p)),
    "skewed forward": (SkewedForward(0.1), lambda q, p: kl(p, mix(p, q, 0.1))),
    "skewed reverse": (SkewedReverse(0.1), lambda q, p: kl(q, mix(q, p, 0.1))),
    "alpha .3": (Alpha(0.3), lambda q, p: (sum(x**0.3 * y**0.7 for x, y in zip(p, q)) - 1) / (0.3 * -0.7)),
    "alpha 2": (Alpha(2), lambda q, p: sum((x - y) ** 2 / y for x, y in zip(p, q)) / 2),
    "alpha -1": (Alpha(-1), lambda q, p: sum((x - y) ** 2 / x for x, y in zip(p, q)) / 2),
    "renyi .5": (Renyi(0.5), lambda q, p: -2 * math.log(sum(math.sqrt(x * y) for x, y in zip(p, q)))),
    "renyi 2": (Renyi(2), lambda q, p: math.log(sum(x * x / y for x, y in zip(p, q)))),
    "total variation": (total_variation, lambda q, p: sum(abs(x - y) for x, y in zip(p, q)) / 2),
    "hellinger": (hellinger, lambda q, p: 1 - sum(math.sqrt(x * y) for x, y in zip(p, q))),
    "tempered 2": (Tempered(kl_forward, 2.0), lambda q, p: 4 * kl(soft(p, 2), soft(q, 2))),
    "tempered reverse .5": (Tempered(kl_reverse, 0.5), lambda q, p: 0.25 * kl(soft(q, 0.5), soft(p, 0.5))),
}
each = pytest.mark.parametrize("name", TABLE)


def draw(num, categories, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(num, categories, generator=g, dtype=torch.float64) * 2).log_softmax(-1).to(dtype)


@each
@settings(deadline=None, max_examples=12)
@given(categories=st.integers(2, 40), num=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_value_equals_loops(name, categories, num, seed):
    divergence, oracle = TABLE[name]
    log_q, log_p = draw(num, categories, seed), draw(num, categories, seed + 1)
    value = divergence(log_q, log_p)
    assert value.shape == (num,)
    for got, q, p in zip(value, log_q.exp(), log_p.exp()):
        want = oracle(q.tolist(), p.tolist())
        assert abs(float(got) - want) <= 1e-9 * max(1, abs(want))


@each
def test_nonnegative_and_zero_only_where_equal(name):
    divergence, _ = TABLE[name]
    log_q, log_p = draw(50, 9, 1), draw(50, 9, 2)
    assert (divergence(log_q, log_p) > 1e-6).all()
    assert divergence(log_p, log_p).abs().max() < 1e-12


@each
def test_gradient_equals_finite_differences(name):
    divergence, _ = TABLE[name]
    logits, log_p = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_(), draw(3, 6, 4)
    assert torch.autograd.gradcheck(lambda z: divergence(z.log_softmax(-1), log_p), (logits,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each
def test_large_vocabulary_stays_finite(name, dtype):
    divergence, _ = TABLE[name]
    log_q = (draw(2, 5000, 5) * 4).log_softmax(-1).to(dtype).requires_grad_()
    log_p = (draw(2, 5000, 6) * 4).log_softmax(-1).to(dtype)
    value = divergence(log_q, log_p)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(log_q.grad).all()


BOUNDED = ["jensen .1", "jensen .5", "skewed forward", "skewed reverse", "total variation", "hellinger", "alpha .3", "renyi .5"]


@pytest.mark.parametrize("name", BOUNDED)
def test_exact_zeros_on_either_side_stay_finite(name):
    divergence, _ = TABLE[name]
    q = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    p = torch.tensor([[0.0, 0.5, 0.5, 0.0]], dtype=torch.float64)
    assert torch.isfinite(divergence(q.log(), p.log())).all()


def test_zeros_of_one_side_follow_the_mathematics():
    q, p = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[1.0, 0.0, 0.0]]).log()
    assert float(kl_forward(q, p)) == pytest.approx(math.log(2))
    assert float(kl_reverse(q, p)) == math.inf
    assert float(kl_reverse(p, q)) == pytest.approx(math.log(2))
    logits = torch.tensor([[2.0, 1.0, -torch.inf]], dtype=torch.float64, requires_grad=True)
    masked = torch.tensor([[0.3, 0.7, 0.0]], dtype=torch.float64).log()
    kl_forward(logits.log_softmax(-1), masked).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_closed_form_gradients_in_the_logits():
    """The f-divergence gradients: dD/dz_j = q_j (g_j - sum q g), g = f(u) - u f'(u), u = p / q."""
    z = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    log_p = draw(1, 7, 8)[0]
    q, p = z.softmax(-1).detach(), log_p.exp()
    u, a, b = p / q, 0.1, 0.3
    cases = {
        kl_forward: -u,
        kl_reverse: -u.log() + 1,
        Jensen(b): -(1 - b) * (b * u + 1 - b).log(),
        SkewedForward(a): -(1 - a) * u / (a * u + 1 - a),
        SkewedReverse(a): -(a + (1 - a) * u).log() + (1 - a) * u / (a + (1 - a) * u),
    }
    for divergence, g in cases.items():
        (grad,) = torch.autograd.grad(divergence(z.log_softmax(-1), log_p), z)
        assert torch.allclose(grad, q * (g - (q * g).sum()), atol=1e-10), divergence


def test_mixture_side_is_the_teachers():
    """beta weighs the teacher in the mixture: pinned where the two readings differ most."""
    log_q, log_p = draw(1, 5, 10), draw(1, 5, 11)
    q, p = log_q.exp()[0].numpy(), log_p.exp()[0].numpy()
    m = 0.1 * p + 0.9 * q
    want = 0.1 * np.sum(p * np.log(p / m)) + 0.9 * np.sum(q * np.log(q / m))
    assert float(Jensen(0.1)(log_q, log_p)) == pytest.approx(want, rel=1e-12)


def test_limits():
    log_q, log_p = draw(4, 6, 12), draw(4, 6, 13)
    for beta, end in ((1e-6, kl_forward), (1 - 1e-6, kl_reverse)):
        scale = beta if beta < 0.5 else 1 - beta
        assert torch.allclose(Jensen(beta)(log_q, log_p) / scale, end(log_q, log_p), rtol=1e-4)
    assert torch.allclose(Jensen(0.5)(log_q, log_p), Jensen(0.5)(log_p, log_q))
    assert (Jensen(0.5)(log_q, log_p) <= math.log(2)).all()
    assert torch.allclose(SkewedForward(0)(log_q, log_p), kl_forward(log_q, log_p))
    assert torch.allclose(SkewedReverse(0)(log_q, log_p), kl_reverse(log_q, log_p))
    assert torch.allclose(Alpha(1 - 1e-7)(log_q, log_p), kl_forward(log_q, log_p), rtol=1e-5)
    assert torch.allclose(Alpha(1e-7)(log_q, log_p), kl_reverse(log_q, log_p), rtol=1e-5)
    assert torch.allclose(Renyi(1 + 1e-7)(log_q, log_p), kl_forward(log_q, log_p), rtol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda: Jensen(1.5), lambda: SkewedForward(1.0), lambda: Tempered(kl_forward, 0), lambda: Renyi(0), lambda: Alpha(float("inf"))]
)
def test_ranges(make):
    with pytest.raises(SettingError):
        make()
