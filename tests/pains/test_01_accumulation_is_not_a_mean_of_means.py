"""Pain 1: GKD averaged over each micro-batch, so the gradient changed with gradient accumulation.

Reported in January 2025, mended in June 2026. Here counts are of the whole global batch, taken before it is split.
"""

import runpy
from pathlib import Path

import pytest

from tutelage.recipes.forward_kl import forward_kl
from tutelage.recipes.gkd import gkd

KIT = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
world, worst = KIT["world"], KIT["worst"]


def update_of(recipe):
    return recipe.stages[0].updates[0]


@pytest.mark.parametrize("recipe", [gkd(), forward_kl(temperature=2.0, label_share=0.3)], ids=["gkd", "forward_kl"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_any_split_gives_the_gradient_of_the_whole(recipe, size, world):
    whole, told = world.gradients(update_of(recipe))
    split, same = world.gradients(update_of(recipe), size=size)
    assert worst(split, whole) < 2e-6
    assert same.loss == pytest.approx(told.loss, rel=1e-5)


def test_a_mean_of_means_would_be_seen(world):
    """The rows are ragged enough that the fault, made by hand, is far beyond the tolerance above."""
    whole, _ = world.gradients(update_of(gkd()))
    single = [world.gradients(update_of(gkd()), rows=[row])[0] for row in world.records]
    faulty = {name: sum(g[name] for g in single) / len(single) for name in whole}
    assert worst(faulty, whole) > 0.02
