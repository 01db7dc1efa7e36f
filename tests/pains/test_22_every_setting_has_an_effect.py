"""Pain 22: a teacher was scored at temperature 0 and the setting was later called a no-op; a "KL" was none.

Here each argument of each recipe changes what is run, a temperature changes loss and gradient, and a setting that
cannot have an effect is refused.
"""

import inspect
import runpy
import typing
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


# another legal value, where it is not told by the default alone
ANOTHER = {
    "ddk.domains": ("more",), "ddk.held": ("other",), "distilling_step_by_step.labels": "teacher",
    "distilling_step_by_step.rationales": "data", "distilling_step_by_step.cue": "=>", "distillm.held": "other",
    "distillm_2.least": 0.02, "ernie_tiny.tuned": "expert", "ernie_tiny.label": "kind", "ernie_tiny.classes": ("a", "c"),
    "ernie_tiny.attention": "average", "ernie_tiny.stages": ("general", "enhanced"), "g_opd_exopd.teacher": "expert",
    "g_opd_exopd.reference": "base", "g_opd_exopd.tag": "kind", "lightning_opd.taught": "more", "lightning_opd.cached": "other",
    "opsd.num_kept": 20, "opsd.cap_nats": 0.5, "provenance_tracing.by": "length", "provenance_tracing.verifier": "number",
    "mopd.wrong_peers": 0, "teacher_hacking.above": 1.5, "opd_survey.divergence": "kl_forward",
    "teacher_hacking.writer": "student", "scope.student_sign": -1, "scope.teacher_sign": 1, "tip.by": "drawn",
}  # fmt: skip
# another legal value of arguments that many recipes have
BY_KEY = {
    "verifier": "exact", "form": "exact", "held": "other", "told": "hint", "context": "hint", "hinter": "student", "teacher": "expert",
    "private": "secret", "pattern": "x+", "key": "other", "label": "kind", "classes": ("a", "c"), "tool": "tools/even.py",
    "uniform": 1.0, "share": 0.3, "bases": ("teacher", "other"),
}  # fmt: skip
# what another setting must say for this one to mean anything: without it, it is refused or documented so
BESIDE = {
    "strong_to_weak.data": {"data_share": 0.5}, "ernie_tiny.label": {"classes": ("a", "b")}, "ernie_tiny.classes": {"label": "kind"},
    "g_opd_exopd.tag": {"teacher": {"a": "x", "b": "y"}}, "lightning_opd.cached": {"taught": "more"}, "opsd.cap_nats": {"beta": 0.0},
    "tip.entropy_power": {"by": "drawn"}, "tip.divergence_power": {"by": "drawn"}, "kepo.gate_on_right": {"form": "exact"},
    "random_teachers.neighbours": {"label": "kind", "classes": ("a", "b")}, "recursive_meta_distillation.max_tokens": {"written": True},
    "opd_survey.scaled": {"loss_temperature": 2.0}, "gkd_minillm_foundations.alpha": {"divergence": "skewed_reverse"},
    "gkd_minillm_foundations.num_kept": {"estimator": "tail"}, "gkd_minillm_foundations.surrogate": {"divergence": "reverse", "student_share": 1.0}, "opd_survey.share": {"divergence": "jensen"},
    **{f"{name}.label": {"classes": ("a", "b")} for name in ("bd_kd", "lelp", "nd_loss", "random_teachers")},
    **{f"{name}.classes": {"label": "kind"} for name in ("bd_kd", "lelp", "nd_loss", "random_teachers")},
}  # fmt: skip
# two that are refused without each other: compared with another value, not with the default
CLASSED = ("ernie_tiny", "bd_kd", "lelp", "nd_loss", "random_teachers")
TOGETHER = {f"{name}.{key}": value for name in CLASSED for key, value in {"label": "sort", "classes": ("a", "b")}.items()}
# it decides what is accepted, not what is run
CHECKS = {"ernie_tiny.allow_jump", "model_collapse_graph.allow_collapse"}


def other(path, default):
    """Another legal value."""
    name, _, key = path.partition(".")
    hint = typing.get_type_hints(inspect.unwrap(catalog.find(name)))[key]
    if path in ANOTHER:
        return ANOTHER[path]
    if typing.get_origin(hint) is typing.Literal:
        return next(value for value in typing.get_args(hint) if value != default)
    if key in BY_KEY and BY_KEY[key] != default:
        return BY_KEY[key]
    if isinstance(default, str):
        return {"answer": "all", "train": "more"}[default]
    if isinstance(default, bool):
        return not default
    return default + 1 if isinstance(default, int) else default / 2 + 0.31


ARGUMENTS = [(f"{n}.{k}", p.default) for n in catalog.names() for k, p in catalog.parameters(catalog.find(n)).items()]
ARGUMENTS = [(path, default) for path, default in ARGUMENTS if path not in CHECKS]


@pytest.mark.parametrize("path, default", ARGUMENTS, ids=[path for path, _ in ARGUMENTS])
def test_each_argument_of_each_recipe_changes_the_recipe(path, default):
    (name, _, key), beside = path.partition("."), BESIDE.get(path, {})
    changed = catalog.build(name, {**beside, key: other(path, default)})
    if path in TOGETHER:
        assert describe(catalog.build(name, {**beside, key: TOGETHER[path]})) != describe(changed)
        return
    plain = catalog.build(name, beside)
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
