"""Pain 19: reverse KL over the teacher's k tokens collapsed, because the student could leave the support unpunished.

Here mass that leaves lands in the bucket of the rest, where the teacher has little: the loss rises with it.
"""

import pytest
import torch

from tutelage.signals.divergences import SkewedReverse, kl_reverse
from tutelage.signals.match import Top


def trained(rest, compare=kl_reverse, k=4, steps=400):
    """Mass on the teacher's k tokens, before and after descending the loss from a student that spreads over all."""
    g = torch.Generator().manual_seed(2)
    log_p = (3 * torch.randn(16, 40, generator=g)).log_softmax(-1)
    z = (0.5 * torch.randn(16, 40, generator=g)).requires_grad_()
    ids, optimiser = log_p.topk(k).indices, torch.optim.Adam([z], 0.05)
    masses = []
    for _ in range(steps):
        masses.append(float(z.detach().softmax(-1).gather(1, ids).sum(-1).mean()))
        optimiser.zero_grad()
        compare(*Top(k, rest=rest)(z.log_softmax(-1), log_p)).mean().backward()
        optimiser.step()
    return masses[0], float(z.detach().softmax(-1).gather(1, ids).sum(-1).mean()), float(log_p.exp().gather(1, ids).sum(-1).mean())


def test_the_partial_sum_lets_the_student_leave():
    before, after, _ = trained("drop")
    assert after < 0.6 * trained("tail")[1] and before < 0.5


@pytest.mark.parametrize("compare", [kl_reverse, SkewedReverse(0.1)], ids=["reverse", "skewed"])
def test_with_the_bucket_the_student_comes_to_the_teachers_mass(compare):
    _, after, teachers = trained("tail", compare)
    assert after == pytest.approx(teachers, abs=0.02)
