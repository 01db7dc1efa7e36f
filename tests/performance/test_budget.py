"""Work and memory of the loss and of a step stay within a stored budget: operations and bytes, no seconds.

A count that grew on purpose becomes the budget with `python -m benchmarks.budget --write`.
"""

import pytest
import torch
from benchmarks.counted import Counted, counted
from benchmarks.head import Inputs

from benchmarks import budget
from tutelage.signals.divergences import kl_forward

HELP = "If that is meant, `python -m benchmarks.budget --write` makes it the budget; say in the log what it buys."


@pytest.mark.parametrize("scene", budget.SCENES)
def test_nothing_costs_more_than_it_did(scene):
    grown = budget.grew(scene, budget.SCENES[scene](), budget.kept()[scene])
    assert not grown, "\n".join([*grown, HELP])


def test_the_budget_is_of_what_is_counted():
    assert budget.kept().keys() == budget.SCENES.keys()


@pytest.mark.parametrize("scene", [s for s in budget.SCENES if s.startswith("loss")])
def test_almost_nothing_is_kept_for_the_backward_pass(scene):
    """512 positions by 4,096 categories: whole logits would keep 16.8 MB."""
    assert budget.kept()[scene]["retained"] <= 1000


def test_a_regression_is_named():
    """Whole logits cost more memory than the node's budget, and the message says which count grew and by how much."""
    inputs = Inputs.seeded(*budget.SHAPE)
    found = counted(lambda: inputs.dense(kl_forward).backward())
    told = budget.grew("loss, forward KL", found, budget.kept()["loss, forward KL"])
    assert any("peak grew from" in line and "%" in line for line in told)


def test_counts_are_right():
    """A product of 3 x 4 by 4 x 5 and one sum; the product is dropped before the second one is made."""
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    with Counted() as mode:
        for _ in range(2):
            c = a @ b
            c.t().sum()
            del c
    assert mode.counts() == {
        "operations": 4, "products": 2, "multiplied": 120, "moved": 2 * (12 + 20 + 15 + 15 + 1), "peak": 4 * 16
    }  # fmt: skip


def test_the_backward_pass_is_counted():
    weight = torch.ones(4, 5, requires_grad=True)
    with Counted() as mode:
        (torch.ones(3, 4) @ weight).sum().backward()
    assert (mode.products, mode.multiplied) == (2, 120)
