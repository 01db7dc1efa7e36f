"""Pain 18: a forward KL over the k kept tokens alone went below 0, was clamped there, and 89 % of steps had no gradient.

Here the mass of the rest is a bucket of its own: the value is never negative, so nothing is clamped, and the gradient is
0 only where the two sides agree.
"""

import pytest
import torch

from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Top


def steps(rest, k=8, num=400, categories=50):
    """Values and gradient norms over many random pairs, the student's head a little more sure than the teacher's."""
    g = torch.Generator().manual_seed(0)
    v = torch.randn(num, categories, generator=g, dtype=torch.float64) * 2
    z = (1.15 * v + 0.3 * torch.randn(v.shape, generator=g, dtype=torch.float64)).requires_grad_()
    value = kl_forward(*Top(k, rest=rest)(z.log_softmax(-1), v.log_softmax(-1)))
    (grad,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), grad.norm(dim=-1)


def test_the_partial_sum_is_negative_in_most_steps_and_a_clamp_would_drop_them():
    value, _ = steps("drop")
    assert float((value < 0).double().mean()) > 0.5


def test_with_the_rest_as_a_bucket_every_step_has_a_value_and_a_gradient():
    value, norm = steps("tail")
    assert float(value.min()) > 0 and float(norm.min()) > 1e-4


@pytest.mark.parametrize("k", [1, 8, 49, 50])
def test_the_gradient_is_that_of_the_bucketed_distributions(k):
    """By the closed form q_B - p_B, spread within a bucket in proportion to q."""
    g = torch.Generator().manual_seed(1)
    z, v = (torch.randn(3, 50, generator=g, dtype=torch.float64) for _ in range(2))
    z.requires_grad_()
    log_p = v.log_softmax(-1)
    (grad,) = torch.autograd.grad(kl_forward(*Top(k)(z.log_softmax(-1), log_p)).sum(), z)
    q, p = z.softmax(-1).detach(), log_p.exp()
    inside = torch.zeros_like(q, dtype=torch.bool).scatter(1, log_p.topk(k).indices, True)
    rest_q, rest_p = ((x * ~inside).sum(-1, keepdim=True) for x in (q, p))
    outside = q - q / rest_q.clamp_min(1e-300) * rest_p
    assert torch.allclose(grad, torch.where(inside, q - p, outside), atol=1e-9)
