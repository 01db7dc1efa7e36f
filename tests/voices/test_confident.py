"""The surer voice is heard more, position by position; lazy, exact, and a target without a gradient through its weights."""

import math
import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core import node
from tutelage.core.errors import NeedError, SettingError
from tutelage.core.scores import Dense
from tutelage.core.signal import Read
from tutelage.signals.divergences import kl_forward, kl_reverse
from tutelage.signals.match import Match
from tutelage.voices import Confident

KIT = runpy.run_path(str(Path(__file__).parents[1] / "contracts" / "conftest.py"))
setting, Fixed = KIT["setting"], KIT["Fixed"]


def oracle(parts, sharpness):
    """A loop over units in plain arithmetic."""
    rows = []
    for said in zip(*parts, strict=True):
        entropy = [-sum(math.exp(x) * x for x in p.tolist() if x > -math.inf) for p in said]
        if math.isinf(sharpness):
            shares = [float(i == min(range(len(said)), key=entropy.__getitem__)) for i in range(len(said))]
        else:
            raw = [math.exp(-sharpness * h) for h in entropy]
            shares = [x / sum(raw) for x in raw]
        rows.append(sum(s * p.exp() for s, p in zip(shares, said, strict=True)).log())
    return torch.stack(rows)


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 7.0, math.inf])
@pytest.mark.parametrize("compare", [kl_forward, kl_reverse], ids=["forward", "reverse"])
def test_equals_a_loop_in_value_and_gradient(sharpness, compare, setting, monkeypatch):
    monkeypatch.setattr(node, "TILE_ELEMENTS", 30)
    monkeypatch.setattr(node, "CHUNK_ELEMENTS", 60)
    s = setting()
    other = torch.randn(13, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).log_softmax(-1)
    other[2, 5] = -math.inf
    other[2] = other[2].log_softmax(-1)
    ctx = s.context(other=Fixed("other", {"next": Dense(other)}), pool=Confident(("teacher", "other"), sharpness))
    want = compare(s.log_q(), oracle([s.log_p().detach(), other], sharpness))
    value, values = node.total(ctx, "tokens", [Match(compare, p=Read("pool"))], torch.ones(1, 13, dtype=torch.float64))
    assert torch.allclose(values[0], want, atol=1e-10)
    got = torch.autograd.grad(value, (s.hidden, s.weight))
    for a, b in zip(got, torch.autograd.grad(want.sum(), (s.hidden, s.weight)), strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_sharpness_0_is_the_mean_and_infinity_one_of_them(setting):
    s = setting()
    parts = {"teacher": s.log_p(), "student": s.log_q()}
    ctx = s.context(mean=Confident(("teacher", "student"), 0.0), one=Confident(("teacher", "student"), math.inf))
    mean, one = (ctx.log_probs(Read(who)) for who in ("mean", "one"))
    assert torch.allclose(mean, torch.stack([p.exp() / 2 for p in parts.values()]).sum(0).log(), atol=1e-12)
    from_teacher = (one - parts["teacher"]).abs().amax(-1) < 1e-9
    from_student = (one - parts["student"]).abs().amax(-1) < 1e-9
    assert bool((from_teacher ^ from_student).all()) and bool(from_teacher.any()) and bool(from_student.any())


@pytest.mark.parametrize("arguments", [(("a",),), (("a", "a"),), (("a", "b"), -1.0), (("a", "b"), math.nan)])
def test_bad_settings(arguments):
    with pytest.raises(SettingError, match="Confident"):
        Confident(*arguments)


def test_features_are_not_pooled(setting):
    ctx = setting().context(pool=Confident(("teacher", "student")))
    with pytest.raises(NeedError, match="read of 'next'"):
        ctx.voices["pool"].predict(ctx, frozenset({"hidden.1"}))
