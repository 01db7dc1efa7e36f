"""Pain 20: top-k before the softmax "is mostly incorrect", and losses below 0 were reported.

Here the k are gathered from log-probabilities over the whole vocabulary; what is left is one bucket, exactly.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core.scores import log_rest
from tutelage.signals.divergences import Jensen, SkewedForward, kl_forward, kl_reverse, total_variation
from tutelage.signals.match import Match, Targets, Top

COMPARES = (kl_forward, kl_reverse, Jensen(0.3), SkewedForward(0.1), total_variation)


def draw(seed, num=6, categories=30, spread=3.0):
    g = torch.Generator().manual_seed(seed)
    return tuple((torch.randn(num, categories, generator=g, dtype=torch.float64) * spread).log_softmax(-1) for _ in range(2))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 30), of=st.sampled_from(["teacher", "student"]), spread=st.floats(0.1, 12))
def test_kept_values_are_true_probabilities_and_the_rest_is_exact(seed, k, of, spread):
    log_q, log_p = draw(seed, spread=spread)
    q, p = Top(k, of)(log_q, log_p)
    ids = (log_p if of == "teacher" else log_q).topk(k).indices
    for kept, whole in ((q, log_q), (p, log_p)):
        assert torch.equal(kept[:, :k], whole.gather(1, ids))
        if k < 30:
            others = torch.ones_like(whole, dtype=torch.bool).scatter(1, ids, False)
            want = (whole.exp() * others).sum(1)
            assert torch.allclose(kept[:, k].exp(), want, atol=1e-12)
        assert torch.allclose(kept.exp().sum(1), torch.ones(6, dtype=torch.float64))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 30), compare=st.sampled_from(COMPARES), of=st.sampled_from(["teacher", "student"]))
def test_with_the_tail_no_divergence_is_negative_or_above_the_whole_one(seed, k, compare, of):
    log_q, log_p = draw(seed)
    value = compare(*Top(k, of)(log_q, log_p))
    assert float(value.min()) >= -1e-12
    assert bool((value <= compare(log_q, log_p) + 1e-12).all())


def test_nothing_is_rescaled_before():
    """Softmax over the k logits alone, the fault, is a far larger mass than the model gave; here the mass stays."""
    log_q, log_p = draw(3, spread=0.5)
    _, p = Top(4)(log_q, log_p)
    faulty = log_p.topk(4).values.log_softmax(-1)
    assert float(p[:, :4].exp().sum(1).max()) < 0.6 and torch.allclose(faulty.exp().sum(1), torch.ones(6, dtype=torch.float64))


def test_the_loss_falls_to_zero_only_where_the_mass_agrees():
    """Renormalised top-k cannot see mass outside of it; the bucket can, and its gradient pulls it back."""
    log_p = torch.tensor([[0.6, 0.3, 0.05, 0.05]], dtype=torch.float64).log()
    z = torch.tensor([[0.2, 0.1, 0.35, 0.35]], dtype=torch.float64).log().requires_grad_()
    values = {}
    for rest in ("tail", "renormalise"):
        values[rest] = kl_forward(*Top(2, rest=rest)(z.log_softmax(-1), log_p)).sum()
    assert float(values["renormalise"].detach()) == pytest.approx(0, abs=1e-12)
    assert float(values["tail"].detach()) > 0.4
    (pull,) = torch.autograd.grad(values["tail"], z)
    assert (pull[0, 2:] > 0.1).all() and (pull[0, :2] < -0.1).all()


def test_rounding_never_makes_the_rest_negative():
    kept = torch.tensor([[0.7, 0.3 + 1e-7], [1.0, 0.0], [0.5, 0.25]]).log()
    rest = log_rest(kept)
    assert torch.isneginf(rest[:2]).all() and float(rest[2].exp()) == pytest.approx(0.25)


def test_cross_entropy_stays_over_the_whole_vocabulary():
    """A term on labels beside a top-k term reads every category: it is no part of the support."""
    assert "on" not in Targets.__dataclass_fields__ and Match(kl_forward, on=Top(4)).on == Top(4)
