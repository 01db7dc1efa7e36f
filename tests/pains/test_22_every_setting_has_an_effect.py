"""Pain 22: a teacher was scored at temperature 0 and the setting was later called a no-op; a "KL" was none.

Here each argument of each recipe changes what is run, a temperature changes loss and gradient, and a setting that
cannot have an effect is refused.
"""

import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core import catalog
from tutelage.core.describe import describe
from tutelage.core.errors import SettingError
from tutelage.recipes.forward_kl import forward_kl
from tutelage.recipes.gkd import gkd
from tutelage.signals.divergences import Tempered, kl_forward
from tutelage.signals.match import Match, Top
from tutelage.training.settings import TrainSettings

KIT = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
world, worst = KIT["world"], KIT["worst"]


def other(default):
    """Another legal value."""
    if isinstance(default, str):
        return {"answer": "all", "train": "more"}[default]
    return default + 1 if isinstance(default, int) else default / 2 + 0.3


ARGUMENTS = [(n, k, p.default) for n in catalog.names() for k, p in catalog.parameters(catalog.find(n)).items()]


@pytest.mark.parametrize("name, key, default", ARGUMENTS, ids=[f"{n}.{k}" for n, k, _ in ARGUMENTS])
def test_each_argument_of_each_recipe_changes_the_recipe(name, key, default):
    # which rows are mixed in says something only where some are
    beside = {"data_share": 0.5} if (name, key) == ("strong_to_weak", "data") else {}
    plain, changed = catalog.build(name, beside), catalog.build(name, {**beside, key: other(default)})
    assert describe(plain) != describe(changed)
    assert describe(plain) == describe(catalog.build(name, {**beside, key: default}))


@pytest.mark.parametrize("make", [lambda t: forward_kl(temperature=t), lambda t: gkd(loss_temperature=t)], ids=["forward_kl", "gkd"])
def test_the_temperature_of_a_loss_changes_loss_and_gradient(make, world):
    seen = {t: world.gradients(make(t).stages[0].updates[0]) for t in (1.0, 2.0)}
    assert abs(seen[2.0][1].loss - seen[1.0][1].loss) > 0.01 * seen[1.0][1].loss
    assert worst(seen[2.0][0], seen[1.0][0]) > 0.05


def test_a_temperature_that_would_be_wrong_is_refused():
    with pytest.raises(SettingError, match="mass of the rest"):
        Match(Tempered(kl_forward, 2.0), on=Top(8))
    for temperature in (0, -1):
        with pytest.raises(SettingError, match="a number > 0"):
            forward_kl(temperature=temperature)


@pytest.mark.parametrize(
    "name, key, value",
    [("forward_kl", "label_share", 1.5), ("forward_kl", "label_share", -0.1), ("gkd", "student_share", 2.0),
     ("gkd", "beta", -1.0), ("jensen", "beta", 1.1), ("opd", "temperature", -1.0), ("opd", "reuse", 0),
     ("seqkd", "max_tokens", 0), ("strong_to_weak", "teacher_temperature", -1.0), ("supervised", "trains", "prompt")],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_when_the_recipe_is_built(name, key, value):
    with pytest.raises(SettingError, match=str(value)):
        catalog.build(name, {key: value})


def test_a_setting_without_effect_is_refused():
    with pytest.raises(ValueError, match="keep_best needs watch_every"):
        TrainSettings(keep_best=True)


def test_what_is_called_a_kl_is_one():
    g = torch.Generator().manual_seed(0)
    log_q, log_p = (torch.randn(9, 20, generator=g, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    want = torch.distributions.kl_divergence(torch.distributions.Categorical(logits=log_p), torch.distributions.Categorical(logits=log_q))
    assert torch.allclose(kl_forward(log_q, log_p), want) and float(kl_forward(log_p, log_p).abs().max()) < 1e-15
