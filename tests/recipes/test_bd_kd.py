"""BD-KD, check by check of its card; check 6 is tests/behaviour/test_bd_kd.py."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from tutelage.core import catalog
from tutelage.core.context import Context
from tutelage.core.errors import SettingError, UnknownName
from tutelage.core.schedule import Progress
from tutelage.core.scores import Head, Lazy
from tutelage.data.collate import Collate
from tutelage.recipes.bd_kd import bd_kd
from tutelage.training.step import Plan, run_update
from tutelage.voices.says import Says

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, Fixed = (KIT[n] for n in ("world", "worst", "setting", "stage", "Fixed"))
limit, trains, step, same = (KIT[n] for n in ("limit", "trains", "step", "same"))


def kl(a, b):
    return (a.exp() * (a - b)).sum(-1)


def entropy(a):
    return -(a.exp() * a).sum(-1)


def draw(rows=6, categories=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    s, t = (2 * torch.randn(rows, categories, generator=g, dtype=torch.float64) for _ in range(2))
    return s.requires_grad_(), t.requires_grad_(), torch.randint(categories, (rows,), generator=g)


def losses(setting, s, t, y, **arguments):
    """The recipe's summed loss of each side over given logits, by the terms of its update: student's, teacher's."""
    made = setting(num_units=len(s), num_categories=s.shape[1])
    made.batch.units["tokens"].target[:] = y
    eye = torch.eye(s.shape[1], dtype=s.dtype)
    voices = {"student": Fixed("student", {"next": Lazy(s, Head(eye))}), "teacher": Fixed("teacher", {"next": Lazy(t, Head(eye))})}
    ctx = Context(made.batch, voices, {}, frozenset({"student", "teacher"}), SimpleNamespace(models={}))
    sums = {"student": 0.0, "teacher": 0.0}
    weights = {}
    for term in stage("bd_kd", **arguments).updates[0].objective:
        weight = ctx.still(term.weight).expand(len(s))
        weights[term.name] = weight
        side = "teacher" if term.name.startswith("teacher") else "student"
        sums[side] = sums[side] + term.scale * (weight * ctx(term.loss)).mean()
    return sums["student"], sums["teacher"], weights


def oracle(s, t, y, delta=2.0, temperature=1.0):
    ls, lt = ((x / temperature).log_softmax(-1) for x in (s, t))
    under = (entropy(ls) > entropy(lt)).detach()
    a, b = torch.where(under, 1.0, delta), torch.where(under, delta, 1.0)
    own = cross_entropy(s, y) + temperature**2 * (a * kl(lt.detach(), ls) + b * kl(ls, lt.detach())).mean()
    theirs = cross_entropy(t, y) + temperature**2 * kl(ls.detach(), lt).mean()
    return own, theirs


@limit("bd_kd", "direction=forward, label_scale=0, online=false: forward_kl with the same temperature.")
@limit("bd_kd", "direction=reverse, label_scale=0, online=false: reverse_kl.")
@limit("bd_kd", "distil_scale=0, online=false: supervised.")
def test_1_forward_alone_is_mutual_learning_and_reverse_alone_reverse_kl(setting, step):
    s, t, y = draw()
    own, theirs, _ = losses(setting, s, t, y, direction="forward")
    ls, lt = s.log_softmax(-1), t.log_softmax(-1)
    assert float(own.detach()) == pytest.approx(float(cross_entropy(s, y) + kl(lt, ls).mean()), abs=1e-6)
    assert float(theirs.detach()) == pytest.approx(float(cross_entropy(t, y) + kl(ls, lt).mean()), abs=1e-6)
    own, _, _ = losses(setting, s, t, y, direction="reverse", label_scale=0.0)
    assert float(own.detach()) == pytest.approx(float(kl(ls, lt).mean()), abs=1e-6)
    alone = {"label_scale": 0.0, "online": False}
    same(step(trains("bd_kd", direction="forward", temperature=2.0, **alone)[0]), step(trains("forward_kl", temperature=2.0)[0]), 5e-6)
    same(step(trains("bd_kd", direction="reverse", **alone)[0]), step(trains("reverse_kl")[0]), 5e-6)
    same(step(trains("bd_kd", distil_scale=0.0, online=False)[0]), step(trains("supervised")[0]), 5e-6)


def test_2_no_gradient_of_one_side_reaches_the_other(setting):
    s, t, y = draw()
    own, theirs, _ = losses(setting, s, t, y, label_scale=0.0)
    assert torch.autograd.grad(own, [s, t], allow_unused=True, retain_graph=True)[1] is None or not float(
        torch.autograd.grad(own, t, allow_unused=True, retain_graph=True)[0].abs().max()
    )
    (to_student,) = torch.autograd.grad(theirs, s, allow_unused=True, retain_graph=True)
    assert to_student is None or not float(to_student.abs().max())
    assert float(torch.autograd.grad(own, s, retain_graph=True)[0].abs().max()) > 1e-3
    assert float(torch.autograd.grad(theirs, t)[0].abs().max()) > 1e-3


def test_3_the_gate_of_an_over_and_an_underconfident_unit_and_a_factor_that_turns_it(setting):
    t = torch.tensor([[2.0, 0, 0], [2.0, 0, 0]], dtype=torch.float64)
    s = torch.tensor([[4.0, 0, 0], [0.5, 0, 0]], dtype=torch.float64)
    y = torch.zeros(2, dtype=torch.long)
    _, _, weights = losses(setting, s, t, y, delta=3.0)
    assert weights["forward"].tolist() == [3, 1] and weights["reverse"].tolist() == [1, 3]
    _, _, weights = losses(setting, s * torch.tensor([[0.25], [8.0]]), t, y, delta=3.0)
    assert weights["forward"].tolist() == [1, 3] and weights["reverse"].tolist() == [3, 1]
    flat = torch.tensor([[1.0, 1, 0]], dtype=torch.float64), torch.tensor([[1.2, 0, 0]], dtype=torch.float64)
    told = [losses(setting, *flat, y[:1], temperature=x)[2]["forward"].item() for x in (0.2, 1.0)]
    ask = [2.0 if entropy((flat[0] / x).log_softmax(-1)) <= entropy((flat[1] / x).log_softmax(-1)) else 1.0 for x in (0.2, 1.0)]
    assert told == ask, "entropies are at the divergences' temperature"


def test_4_classes_may_be_renamed_and_the_gate_has_no_gradient(setting):
    s, t, y = draw()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(4))
    inverse = order.argsort()
    for a, b in zip(losses(setting, s, t, y)[:2], losses(setting, s[:, order], t[:, order], inverse[y])[:2], strict=True):
        assert float(a.detach()) == pytest.approx(float(b.detach()), abs=1e-12)
    for temperature in (1.0, 2.5):
        got, want = losses(setting, s, t, y, temperature=temperature)[:2], oracle(s, t, y, 2.0, temperature)
        for a, b, leaf in zip(got, want, (s, t), strict=True):
            assert float(a.detach()) == pytest.approx(float(b.detach()), abs=1e-10)
            grads = [torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in (a, b)]
            assert torch.allclose(*grads, atol=1e-10)
    (grad,) = torch.autograd.grad(losses(setting, s, t, y)[0], s)
    step_of = torch.zeros_like(s)
    step_of[2, 5] = 1e-6
    with torch.no_grad():
        up, down = (losses(setting, s + x, t, y)[0] for x in (step_of, -step_of))
    assert float((up - down) / 2e-6) == pytest.approx(float(grad[2, 5]), rel=1e-5)


def test_5_at_equality_there_is_no_divergence_and_no_gradient_whatever_delta(setting):
    s, _, y = draw()
    t = s.detach().clone().requires_grad_()
    for delta in (1.0, 2.0, 50.0):
        own, theirs, _ = losses(setting, s, t, y, delta=delta, label_scale=0.0)
        assert abs(float(own.detach())) < 1e-10 and abs(float(theirs.detach())) < 1e-10
        assert float(torch.autograd.grad(own, s)[0].abs().max()) < 1e-10
        assert float(torch.autograd.grad(theirs, t)[0].abs().max()) < 1e-10


def test_both_models_move_and_each_gets_the_gradient_of_its_own_loss(world):
    update = stage("bd_kd").updates[0]
    assert update.moves == ("student", "teacher") and stage("bd_kd", online=False).updates[0].moves == ("student",)
    found = []
    for size in (99, 2):
        for model in (world.pair.student, world.pair.teacher):
            model.model.requires_grad_(True).zero_grad()
        plan = Plan.of(update, {slot: Says(slot) for slot in world.ws.models})
        batches = [Collate(world.tokenizer, 128)(world.records[i : i + size]) for i in range(0, len(world.records), size)]
        run_update(plan, batches, world.ws, Progress("train", 0, 10), backward=lambda v: v.backward(), reduce=lambda t: t, inside=lambda f: f())
        found.append([{n: p.grad.clone() for n, p in m.model.named_parameters()} for m in (world.pair.student, world.pair.teacher)])
    batch = Collate(world.tokenizer, 128)(world.records)
    view, y = batch.views["main"], batch.units["tokens"].target
    logits = []
    for model in (world.pair.student, world.pair.teacher):
        model.model.zero_grad()
        logits.append(model.model(**view.inputs).logits.flatten(0, 1)[view.at])
    sum(oracle(*logits, y)).backward()
    for i, model in enumerate((world.pair.student, world.pair.teacher)):
        want = {n: p.grad for n, p in model.model.named_parameters()}
        assert worst(found[0][i], want) < 1e-5 and worst(found[1][i], want) < 1e-5


def test_settings_and_classes():
    for wrong in ({"delta": 0.5}, {"label_scale": -1.0}, {"temperature": 0.0}, {"label": "x"}):
        with pytest.raises(SettingError):
            bd_kd(**wrong)
    with pytest.raises(UnknownName, match="sideways"):
        bd_kd(direction="sideways")
    given = {"label": "label", "classes": ("no", "yes")}
    assert [s.name for s in catalog.build("bd_kd", given).stages] == ["label", "train"]
    assert stage("bd_kd", **given).updates[0].moves == ("student", "student.classes", "teacher", "teacher.classes")
    fixed = catalog.build("bd_kd", {**given, "online": False}).stages
    assert [s.name for s in fixed] == ["label", "probe", "train"] and fixed[-1].updates[0].moves == ("student", "student.classes")
