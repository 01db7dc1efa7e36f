"""ND loss, check by check of its card; check 6 is tests/behaviour/test_nd_loss.py."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tutelage.core import catalog
from tutelage.core.context import Context
from tutelage.core.errors import NeedError, SettingError
from tutelage.core.recipe import Change, Train
from tutelage.core.record import Piece, Record
from tutelage.core.scores import Dense, Head, Lazy
from tutelage.core.signal import Read
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.recipes.nd_loss import nd_loss
from tutelage.signals.lenses import Classify
from tutelage.signals.toward import Beneath, ClassRow, Toward, head_rows
from tutelage.surgery.fit import ClassMeans

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, Fixed = (KIT[n] for n in ("world", "worst", "setting", "stage", "Fixed"))
limit, trains, step, same, nonzero = (KIT[n] for n in ("limit", "trains", "step", "same", "nonzero"))
PUSH = Toward(Read("student", through=(Beneath(),)), Read("teacher", through=(Beneath(),)), Read("teacher", through=(ClassRow(),)))


def pushed(setting, f, t, e):
    """The loss of given features, and the features as a leaf."""
    f = f.clone().requires_grad_()
    made = setting(num_units=len(f), size=f.shape[1])
    made.hidden, made.teacher_hidden = f, t
    made.weight = torch.randn(11, f.shape[1], dtype=f.dtype)
    made.teacher_weight = torch.zeros(11, f.shape[1], dtype=f.dtype)
    target = torch.arange(len(f))
    made.teacher_weight[target] = 3 * e  # a direction, whatever its length
    made.batch.units["tokens"].target[:] = target
    return made.context()(PUSH), f


def unit(size=4, seed=0):
    e = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return e / e.norm()


def across(e):
    other = unit(len(e), 9)
    other = other - (other @ e) * e
    return other / other.norm()


def test_1_along_the_direction_and_long_is_0_short_is_the_missing_part_across_is_1_and_opposite_is_2(setting):
    e = unit()
    f = torch.stack([7 * e, 5 * e, 2 * e, 6 * across(e), 0.1 * across(e), -9 * e])
    t = 5 * across(e).expand(6, -1)
    got, _ = pushed(setting, f, t, e.expand(6, -1))
    assert torch.allclose(got, torch.tensor([0, 0, 1 - 2 / 5, 1, 1, 2], dtype=torch.float64), atol=1e-6)


def test_2_a_long_feature_is_only_turned_and_a_short_ones_gradient_is_minus_e_over_the_teachers_length(setting):
    g = torch.Generator().manual_seed(1)
    f = torch.randn(6, 4, generator=g, dtype=torch.float64)
    e = torch.nn.functional.normalize(torch.randn(6, 4, generator=g, dtype=torch.float64), dim=-1)
    t = torch.randn(6, 4, generator=g, dtype=torch.float64)
    t = t / t.norm(dim=-1, keepdim=True) * f.norm(dim=-1, keepdim=True) * torch.tensor([[0.5]] * 3 + [[2.0]] * 3)
    got, leaf = pushed(setting, f, t, e)
    (grad,) = torch.autograd.grad(got.sum(), leaf)
    assert float((grad[:3] * f[:3]).sum(-1).abs().max()) < 1e-12 and float(grad[:3].abs().max()) > 0.01
    assert torch.allclose(grad[3:], -e[3:] / t[3:].norm(dim=-1, keepdim=True), atol=1e-12)


def test_3_neither_the_teachers_features_nor_the_means_get_a_gradient(setting):
    made = setting()
    made.teacher_hidden.requires_grad_()
    made.teacher_weight.requires_grad_()
    value = made.context()(PUSH).sum()
    assert torch.autograd.grad(value, [made.teacher_hidden, made.teacher_weight], allow_unused=True) == (None, None)


@limit("nd_loss", "nd_scale=0, label_scale=0, warmup_share=0: forward_kl with the same temperature.")
@limit("nd_loss", "nd_scale=0, kd_scale=0: supervised.")
def test_4_without_the_push_it_is_the_base(step):
    bare = step(trains("nd_loss", nd_scale=0.0, label_scale=0.0, warmup_share=0.0)[0])
    same(bare, step(trains("forward_kl", temperature=4.0)[0]), 5e-6)
    same(step(trains("nd_loss", nd_scale=0.0, kd_scale=0.0)[0]), step(trains("supervised")[0]), 5e-6)
    more = step(trains("nd_loss", label_scale=0.0, warmup_share=0.0)[0])
    assert KIT["worst"](bare[0], more[0]) > 1e-3 and more[1].loss > bare[1].loss


def test_4_class_means_of_three_rows_are_arithmetic(tiny_pair, tmp_path):
    ws = Workspace(tmp_path, 0)
    ws.models["teacher"] = tiny_pair.teacher
    ws.data["train"] = [Record(f"r{i}", (Piece(w, trains=True),), {}, {"label": y}) for i, (w, y) in enumerate([("in", 0.0), ("the", 1.0), ("a", 0.0)])]
    batch = Collate(tiny_pair.tokenizer, 64)(ws.data["train"])
    with torch.no_grad():
        h = tiny_pair.teacher.predict(batch.views["main"], frozenset({"pooled"}))["pooled"]
    means = ClassMeans("teacher", "train")(ws)
    assert torch.allclose(means.weight, torch.stack([(h[0] + h[2]) / 2, h[1]]), atol=1e-5)

    batch.notes["rows.label"] = torch.tensor([0.0, 1.0, 0.0])
    ws.models["means"] = means
    ctx = Context(batch, {"teacher": Fixed("teacher", {"pooled": h})}, {}, workspace=ws)
    rows = ctx.features(Read("teacher", "pooled", (Classify("means"), ClassRow("label", "rows")), "rows"))
    assert torch.allclose(rows, nn.functional.normalize(means.weight[[0, 1, 0]], dim=-1), atol=1e-6)


def test_5_twice_the_batch_is_the_same_loss_and_gradient_and_splits_change_nothing(world):
    update = stage("nd_loss").updates[0]
    with torch.no_grad():  # fresh norms make all states equally long: which of two is longer would be rounding
        world.pair.teacher.model.model.norm.weight.mul_(torch.linspace(0.5, 1.6, 32))
    want, told = world.gradients(update)
    twice, also = world.gradients(update, rows=[*world.records, *(replace(r, id=r.id + "2") for r in world.records)])
    assert worst(twice, want) < 5e-6 and also.loss == pytest.approx(told.loss, rel=1e-5)
    for how in ({"size": 2}, {"padding": "left"}, {"pack": True}):
        got, also = world.gradients(update, **how)
        assert worst(got, want) < 5e-6 and also.loss == pytest.approx(told.loss, rel=1e-5)


def test_the_warm_up_is_of_the_soft_loss_alone(world):
    update = stage("nd_loss", warmup_share=1.0).updates[0]
    _, told = world.gradients(update)  # the first step
    assert told.loss == pytest.approx(told.tallies["nd"].mean + told.tallies["hard"].mean, rel=1e-5)
    assert told.tallies["soft"].mean > 0


def test_the_gradient_is_autograds_through_whole_models(world):
    update = stage("nd_loss", kd_scale=0.0, label_scale=0.0).updates[0]
    with torch.no_grad():
        world.pair.teacher.model.model.norm.weight.mul_(torch.linspace(0.5, 1.6, 32))
    got, told = world.gradients(update)
    student, teacher = world.pair.student, world.pair.teacher
    batch = Collate(world.tokenizer, 128)(world.records)
    view, target = batch.views["main"], batch.units["tokens"].target
    student.model.zero_grad()
    f = student.hidden(view.inputs).flatten(0, 1)[view.at]
    with torch.no_grad():
        t = teacher.hidden(view.inputs).flatten(0, 1)[view.at]
        e = nn.functional.normalize(teacher.head.weight[target], dim=-1)
    loss = (1 - (f * e).sum(-1) / torch.maximum(f.norm(dim=-1), t.norm(dim=-1))).mean()
    loss.backward()
    want = {n: p.grad for n, p in student.model.named_parameters() if p.grad is not None and n in got}
    assert told.loss == pytest.approx(float(loss), rel=1e-5)
    assert worst(got, want) < 5e-6


def test_low_rank_pairs_belong_to_a_heads_rows():
    g = torch.Generator().manual_seed(0)
    weight, a, b = (torch.randn(*s, generator=g) for s in ((7, 5), (2, 5), (7, 2)))
    head = Head(weight, low=((a, b, 0.5),))
    assert torch.allclose(head_rows(head, torch.tensor([3, 3, 6])), (weight + 0.5 * b @ a)[[3, 3, 6]], atol=1e-6)


def test_settings_scores_without_states_and_other_widths_are_refused(setting):
    for wrong in ({"nd_scale": -1.0}, {"warmup_share": 2.0}, {"temperature": 0.0}, {"label": "x"}):
        with pytest.raises(SettingError):
            nd_loss(**wrong)
    made = setting()
    kept = Fixed("teacher", {"next": Dense(torch.zeros(13, 11, dtype=torch.float64).log_softmax(-1))})
    with pytest.raises(NeedError, match="load the model"):
        made.context(teacher=kept)(PUSH)
    wide = Fixed("teacher", {"next": Lazy(torch.ones(13, 6, dtype=torch.float64), Head(torch.ones(11, 6, dtype=torch.float64)))})
    with pytest.raises(SettingError, match="project=true"):
        made.context(teacher=wide)(PUSH)


def test_with_classes_the_means_are_fitted_and_with_a_map_it_trains_too():
    made = catalog.build("nd_loss", {"label": "label", "classes": ("no", "yes"), "project": True}).stages
    assert [s.name for s in made] == ["label", "probe", "means", "train"]
    last = made[-1]
    assert isinstance(made[2], Change) and isinstance(last, Train)
    assert last.updates[0].moves == ("student", "map", "student.classes") and "teacher.classes" in last.parts
