"""LELP, check by check of its card; check 6 is tests/behaviour/test_lelp.py."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tutelage.core import catalog
from tutelage.core.context import Context
from tutelage.core.errors import DataError, SettingError
from tutelage.core.recipe import Change
from tutelage.core.scores import Dense, Head, Lazy
from tutelage.core.seeds import generator
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update
from tutelage.data.collate import Collate
from tutelage.models.parts import Classes
from tutelage.recipes.lelp import lelp
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match
from tutelage.signals.subclasses import Merged, Parted, Subdivide
from tutelage.surgery.axes import ClassAxes, class_axes, rotation
from tutelage.surgery.fit import Fitted

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, Fixed = (KIT[n] for n in ("world", "worst", "setting", "stage", "Fixed"))
limit, trains, step, same = (KIT[n] for n in ("limit", "trains", "step", "same"))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(world, subclasses, **more):
    """Put the axes and the student's head over subclasses into the world."""
    world.ws.data["train"] = world.records
    axes = ClassAxes("teacher", "train", "", subclasses, more.get("temperature", 0.5), more.get("most", 16))(world.ws)
    torch.manual_seed(0)
    head = Classes(32, 16 * subclasses)
    torch.nn.init.normal_(head.weight)
    for slot, made in (("axes", axes), ("student.subclasses", head)):
        world.ws.models[slot] = SimpleNamespace(model=made, weight=made.weight, bias=made.bias, ids=axes.ids)
    return axes


def spread_of(num=3, size=6, seed=1):
    """Covariances with a falling spectrum."""
    out = []
    for i in range(num):
        q = torch.linalg.qr(draw(size, size, seed=seed + i))[0]
        out.append(q @ torch.diag(torch.tensor([2.0**-k for k in range(size)], dtype=torch.float64)) @ q.T)
    return torch.stack(out)


def test_1_summed_over_subclasses_the_target_is_the_teachers_distribution(world):
    fitted(world, 3)
    batch = Collate(world.tokenizer, 128)(world.records)
    with torch.no_grad():
        p = world.pair.teacher.predict(batch.views["main"], frozenset({"next"}))["next"]
        ctx = SimpleNamespace(workspace=world.ws)
        parted = Subdivide("axes", "axes", 3)(p, ctx)
        target, plain = parted.at(slice(None)).exp(), p.at(slice(None)).exp()
    ids, count = parted.ids, 3 * len(parted.ids)
    assert target.shape[1] == plain.shape[1] + 2 * len(ids) and torch.allclose(target.sum(-1), torch.ones(len(target)), atol=1e-6)
    assert torch.allclose(target[:, :count].unflatten(-1, (-1, 3)).sum(-1), plain[:, ids], atol=1e-6)
    assert torch.allclose(target[:, count:], plain[:, parted.others], atol=1e-6)
    memberships = target[:, :count].unflatten(-1, (-1, 3)) / plain[:, ids].unsqueeze(-1)
    assert float(memberships.std()) > 0.1, "not all alike"
    whole = Parted(Dense(draw(5, 4).log_softmax(-1)), Dense(draw(5, 12, seed=1)), 3)
    assert torch.allclose(Merged(whole, 3).at(slice(None)), whole.whole.at(slice(None)), atol=1e-12)


@limit("lelp", "subclasses=1: forward_kl.")
def test_2_one_subclass_is_plain_forward_kl_in_loss_and_gradient(world, step):
    fitted(world, 1)
    same(step(trains("lelp", subclasses=1)[0]), step(trains("forward_kl")[0]), 5e-6)
    fitted(world, 4)
    assert worst(step(trains("lelp")[0])[0], step(trains("forward_kl")[0])[0]) > 1e-3


def test_3_directions_are_orthogonal_to_all_differences_of_the_head_and_adding_one_moves_no_membership():
    head, spreads = draw(3, 6), spread_of()
    rows = class_axes(draw(3, 6, seed=3), spreads, head, 2, generator(0, "x"))
    differences = head.unsqueeze(0) - head.unsqueeze(1)
    assert float((rows @ differences.reshape(-1, 6).T).abs().max()) < 1e-9
    h = draw(1, 6, seed=5)
    moved = h + 7.5 * (head[0] - head[2])
    assert torch.allclose(h @ rows.T, moved @ rows.T, atol=1e-9)
    assert float((h @ rows.T - (h + head[0]) @ rows.T).abs().max()) > 1e-2, "the mean row is no difference and stays"
    for c in range(3):  # the deviation along a class's own directions is 1, and they are its main ones
        own = rows[2 * c : 2 * c + 2]
        assert float((own @ spreads[c] @ own.T).trace()) / 2 == pytest.approx(1, rel=1e-9)
        told = torch.linalg.svd(head - head.mean(0), full_matrices=False)[2][:2]
        rest = torch.eye(6, dtype=torch.float64) - told.T @ told
        values = torch.linalg.eigvalsh(rest @ spreads[c] @ rest)
        u = torch.linalg.qr(own.T)[0]
        assert float((u.T @ spreads[c] @ u).trace()) == pytest.approx(float(values[-2:].sum()), rel=1e-6)


def test_4_a_large_temperature_makes_subclasses_alike_and_the_marginals_gradient_that_of_kl(world):
    axes = fitted(world, 3, temperature=1e7)
    h = draw(4, 32).float()
    parts = axes(h).unflatten(-1, (-1, 3)).softmax(-1)
    assert torch.allclose(parts, torch.full_like(parts, 1 / 3), atol=1e-5)
    logits, p = draw(5, 4).requires_grad_(), draw(5, 4, seed=2).log_softmax(-1)
    within = torch.zeros(5, 12, dtype=torch.float64)
    wide = Parted(Dense(logits.log_softmax(-1)), Dense(within), 3).at(slice(None))
    target = Parted(Dense(p), Dense(within), 3).at(slice(None))
    (got,) = torch.autograd.grad(kl_forward(wide, target).sum(), logits)
    assert torch.allclose(got, logits.softmax(-1) - p.exp(), atol=1e-12)


def test_5_turned_directions_vary_more_alike_than_principal_ones():
    spectrum = torch.tensor([8.0, 4, 2, 1], dtype=torch.float64)
    ratios = []
    for i in range(20):
        r = rotation(4, generator(i, "r"))
        assert torch.allclose(r @ r.T, torch.eye(4, dtype=torch.float64), atol=1e-12) and float(torch.linalg.det(r)) == pytest.approx(1)
        variance = (r.T @ torch.diag(spectrum) @ r).diagonal()
        assert float(variance.sum()) == pytest.approx(15)
        ratios.append(float(variance.max() / variance.min()))
    assert sum(ratios) / 20 < 8


def test_the_fit_is_that_of_a_plain_loop_over_features(world):
    axes = fitted(world, 2)
    batch = Collate(world.tokenizer, 128)(world.records)
    with torch.no_grad():
        h = world.pair.teacher.predict(batch.views["main"], frozenset({"next"}))["next"].hidden.double()
    y, weight = batch.units["tokens"].target, world.pair.teacher.head.weight.double()
    counts = torch.bincount(y)
    assert axes.ids is not None and bool((counts[axes.ids] > 2).all()) and counts[axes.ids[0]] == counts.max()
    told = torch.linalg.svd(weight[axes.ids] - weight[axes.ids].mean(0), full_matrices=False)[2][: len(axes.ids) - 1]
    for k, c in enumerate(axes.ids.tolist()):
        own = h[y == c]
        z = axes(own.float()).double()[:, 2 * k : 2 * k + 2] * 0.5
        assert float(z.mean(0).abs().max()) < 1e-3 and float(z.square().mean()) == pytest.approx(1, rel=1e-2)
        centred = own - own.mean(0)
        centred = centred - centred @ told.T @ told
        values = torch.linalg.svd(centred)[1].square()
        u = torch.linalg.qr(axes.weight[2 * k : 2 * k + 2].double().T)[0]
        assert float((centred @ u).square().sum()) == pytest.approx(float(values[:2].sum()), rel=1e-3)


def test_it_is_kept_with_its_tokens_and_read_back(world, tmp_path):
    axes = fitted(world, 2)
    axes.save(tmp_path / "kept")
    again = Fitted.load(tmp_path / "kept")
    assert torch.equal(again.ids, axes.ids) and torch.equal(again.weight, axes.weight)


def test_parted_scores_are_dense_ones_in_value_and_gradient_through_the_node(setting):
    made = setting()
    part = SimpleNamespace(weight=draw(6, 5, seed=4).requires_grad_(), bias=draw(6, seed=5).requires_grad_())
    ids = torch.tensor([7, 2, 4])
    models = {"own": part, "axes": SimpleNamespace(weight=draw(6, 5, seed=6), bias=draw(6, seed=7), ids=ids)}
    voices = {"student": Fixed("student", {"next": Lazy(made.hidden, Head(made.weight))}),
              "teacher": Fixed("teacher", {"next": Lazy(made.teacher_hidden, Head(made.teacher_weight))})}  # fmt: skip
    ctx = Context(made.batch, voices, {}, frozenset({"student"}), SimpleNamespace(models=models))
    q, p = Read("student", through=(Subdivide("own", "axes", 2),)), Read("teacher", through=(Subdivide("axes", "axes", 2),))
    value = ctx(Match(kl_forward, q, p))

    def dense(log, hidden, w, b):
        m = (hidden @ w.T + b).unflatten(-1, (3, 2)).log_softmax(-1)
        rest = [c for c in range(11) if c not in (7, 2, 4)]
        return torch.cat([(log[:, ids, None] + m).flatten(1), log[:, rest]], 1)

    log_q = dense(made.log_q(), made.hidden, part.weight, part.bias)
    log_p = dense(made.log_p(), made.teacher_hidden, models["axes"].weight, models["axes"].bias)
    want = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert torch.allclose(value, want, atol=1e-10)
    leaves, c = (made.hidden, made.weight, part.weight, part.bias), draw(13, seed=8)
    for one, other in zip(torch.autograd.grad((value * c).sum(), leaves), torch.autograd.grad((want * c).sum(), leaves), strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_splits_and_padding_change_nothing(world):
    fitted(world, 4)
    update = stage("lelp").updates[0]
    want, told = world.gradients(update)
    for how in ({"size": 2}, {"padding": "left"}, {"pack": True}):
        got, also = world.gradients(update, **how)
        assert worst(got, want) < 1e-5 and also.loss == pytest.approx(told.loss, rel=1e-5)


def test_with_classes_the_students_head_is_wide_and_classes_are_sums():
    made = catalog.build("lelp", {"label": "label", "classes": ("no", "yes"), "label_scale": 0.5, "subclasses": 3}).stages
    assert [s.name for s in made] == ["label", "probe", "axes", "train"] and isinstance(made[2], Change)
    last = made[-1]
    assert dict(last.parts["student.subclasses"].settings) == {"out_features": 6} and last.updates[0].moves == ("student", "student.subclasses")
    assert isinstance(last.updates[0], Update) and [type(t) for t in last.updates[0].objective] == [Term, Term]
    assert Read("student", "pooled", last.updates[0].watch[0][1].q.through, "rows").through[-1].num_parts == 3


def test_settings_and_too_little_data_are_refused(world):
    for wrong in ({"subclasses": 0}, {"temperature": 0.0}, {"num_tokens": 1}, {"label_scale": -1.0}, {"label": "x"}):
        with pytest.raises(SettingError):
            lelp(**wrong)
    world.ws.data["train"] = world.records
    with pytest.raises(DataError, match="fewer subclasses"):
        ClassAxes("teacher", "train", "", 60)(world.ws)
    with pytest.raises(DataError, match="2 dimensions"):
        class_axes(draw(3, 2), spread_of(3, 2), draw(3, 2), 1, generator(0, "x"))
    narrow = SimpleNamespace(weight=draw(3, 5), bias=draw(3))
    axes = SimpleNamespace(weight=draw(6, 5), bias=draw(6), ids=None)
    ctx = SimpleNamespace(workspace=SimpleNamespace(models={"own": narrow, "axes": axes}))
    with pytest.raises(SettingError, match="3 rows"):
        Subdivide("own", "axes", 2)(Lazy(draw(2, 5), Head(draw(3, 5))), ctx)
