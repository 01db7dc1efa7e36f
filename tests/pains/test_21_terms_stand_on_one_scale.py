"""Pain 21: cross-entropy and divergence differed 100 to 1,000 times, so a mixing weight meant nothing.

Here both are nats a trained token, divided by the same count, and T^2 keeps the gradient's size when T changes.
"""

import runpy
from pathlib import Path

import pytest
import torch

from tutelage.recipes.forward_kl import forward_kl
from tutelage.recipes.supervised import supervised
from tutelage.signals.divergences import Tempered, kl_forward

KIT = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
world, worst = KIT["world"], KIT["worst"]


def update_of(recipe):
    return recipe.stages[0].updates[0]


def test_a_certain_teacher_makes_the_two_terms_equal(world):
    """KL(p || q) where p is sure of the data's token is the cross-entropy with it, to the last digit."""
    g = torch.Generator().manual_seed(0)
    log_q, target = torch.randn(50, 30, generator=g).log_softmax(-1), torch.randint(30, (50,), generator=g)
    sure = torch.full((50, 30), -torch.inf).scatter(1, target[:, None], 0.0)
    assert torch.allclose(kl_forward(log_q, sure), -log_q.gather(1, target[:, None])[:, 0])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_is_a_share(share, world):
    """The gradient is ``(1 - share)`` times one and ``share`` times the other; both tallies count the same tokens."""
    kl, told_kl = world.gradients(update_of(forward_kl()))
    labels, told_labels = world.gradients(update_of(supervised()))
    both, told = world.gradients(update_of(forward_kl(label_share=share)))
    want = {n: (1 - share) * kl[n] + share * labels[n] for n in kl}
    assert worst(both, want) < 2e-6
    assert told.loss == pytest.approx((1 - share) * told_kl.loss + share * told_labels.loss, rel=1e-6)
    assert told.tallies["kl"].count == told.tallies["labels"].count == sum(
        len(world.tokenizer(r.pieces[1].content)["input_ids"]) + 1 for r in world.records
    )
    # an untrained pair of 262 tokens: both terms are of the order of log 262 nats, not apart by a hundred
    assert 0.1 < told_kl.loss / told_labels.loss < 10


def test_the_square_of_the_temperature_keeps_the_size():
    g = torch.Generator().manual_seed(0)
    z, log_p = torch.randn(40, 30, generator=g, dtype=torch.float64), torch.randn(40, 30, generator=g, dtype=torch.float64).log_softmax(-1)
    norms = {}
    for temperature in (1.0, 4.0, 20.0):
        for scaled in (True, False):
            leaf = z.clone().requires_grad_()
            Tempered(kl_forward, temperature, scaled=scaled)(leaf.log_softmax(-1), log_p).sum().backward()
            norms[temperature, scaled] = float(leaf.grad.norm())
    assert 0.3 < norms[20.0, True] / norms[1.0, True] < 3
    assert norms[20.0, False] < norms[1.0, False] / 100
