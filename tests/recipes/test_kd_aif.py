"""KD-AIF, check by check of its card; check 6 is tests/behaviour/test_kd_aif.py."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from tutelage.core import catalog
from tutelage.core.errors import DataError, SettingError, UnknownName
from tutelage.core.recipe import Change, Generate, Train
from tutelage.core.scores import Head
from tutelage.core.signal import Noted
from tutelage.data.collate import Collate
from tutelage.data.steps.influence import Weigh, exponential_weights, scale_of, sigmoid_weights
from tutelage.models.curvature import HeadCurvature, affine, solve
from tutelage.recipes.kd_aif import kd_aif
from tutelage.surgery.influence import Influence

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, Fixed = (KIT[n] for n in ("world", "worst", "setting", "stage", "Fixed"))
limit, trains, step, same = (KIT[n] for n in ("limit", "trains", "step", "same"))


def weighed(world, rows, weighing="sigmoid", temperature=1.0, **more):
    """The rows with their notes."""
    world.ws.data["rows"] = rows
    world.ws.models["influence"] = Influence("rows", weighing=weighing, temperature=temperature, **more)(world.ws)
    return list(Weigh("influence", weighing, temperature)(iter(rows), world.ws))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(num, seed, flip=()):
    y = torch.arange(num) % 3
    x = torch.cat([draw(num, 4, seed=seed) + 1.2 * torch.eye(4, dtype=torch.float64)[y], torch.ones(num, 1, dtype=torch.float64)], 1)
    for i in flip:
        y[i] = (y[i] + 1) % 3
    return x, y


def fitted(x, y, damping=0.1, keep=None):
    """W of L2-regularised softmax regression, by Newton's method: exact."""
    w = torch.zeros(3, x.shape[1], dtype=torch.float64)
    weight = torch.ones(len(x), dtype=torch.float64) if keep is None else keep

    def loss(v):
        v = v.view(3, -1)
        return (weight * cross_entropy(x @ v.T, y, reduction="none")).sum() / len(x) + damping / 2 * v.square().sum()

    for _ in range(20):
        g = torch.autograd.functional.jacobian(loss, w.flatten())
        h = torch.autograd.functional.hessian(loss, w.flatten())
        w = (w.flatten() - torch.linalg.solve(h, g)).view(3, -1)
    return w


def pieces(w, x, y, xv, yv, damping=0.1):
    """Benefits of rows by the part under test, of labels."""
    slope = (xv @ w.T).softmax(-1) - torch.eye(3, dtype=torch.float64)[yv]
    direction = solve(HeadCurvature(w, x, 1.0, damping), slope.T @ xv / len(xv), 200, 1e-10)
    own = (x @ w.T).softmax(-1) - torch.eye(3, dtype=torch.float64)[y]
    return (own * (x @ direction.T)).sum(-1)


@limit("kd_aif", "weighing=none: forward_kl with the same temperature.")
def test_1_weights_of_1_are_unweighted_distillation_bit_for_bit(world, step):
    same(step(trains("kd_aif", weighing="none", temperature=2.0)[0]), step(trains("forward_kl", temperature=2.0)[0]))
    term = trains("kd_aif", temperature=2.0)[-1].updates[0]
    assert term.objective[0].weight == Noted("weight", "rows")
    noted = [replace(r, notes={**r.notes, "weight": 1.0}) for r in world.records]
    got, told = world.gradients(term, rows=noted)
    want, also = world.gradients(trains("forward_kl", temperature=2.0)[0].updates[0])
    assert all(torch.equal(got[n], want[n]) for n in want) and told.loss == also.loss


def test_2_leaving_a_row_out_changes_the_held_out_loss_as_predicted():
    x, y = mixture(150, 0, flip=(3, 10, 22))
    xv, yv = mixture(60, 1)
    w = fitted(x, y)
    predicted = pieces(w, x, y, xv, yv)[:30] / len(x)
    base, actual = float(cross_entropy(xv @ w.T, yv)), []
    for i in range(30):
        keep = torch.ones(len(x), dtype=torch.float64)
        keep[i] = 0
        actual.append(float(cross_entropy(xv @ fitted(x, y, keep=keep).T, yv)) - base)
    actual = torch.tensor(actual, dtype=torch.float64)
    assert float(torch.corrcoef(torch.stack([predicted, actual]))[0, 1]) > 0.95
    big = actual.abs() > actual.abs().median()
    assert float((predicted[big] / actual[big]).median()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_3_the_solution_is_the_dense_one_and_the_product_autograds(temperature):
    x, w, v, target = draw(25, 6), draw(5, 6, seed=1), draw(5, 6, seed=2), draw(5, 6, seed=3)
    p = draw(25, 5, seed=4).softmax(-1)

    def loss(flat):
        log_q = (x @ flat.view(5, 6).T / temperature).log_softmax(-1)
        return temperature**2 * (p * (p.log() - log_q)).sum(-1).mean() + 0.01 / 2 * flat.square().sum()

    h = torch.autograd.functional.hessian(loss, w.flatten())
    product = HeadCurvature(w, x, temperature)
    assert torch.allclose(product(v).flatten(), h @ v.flatten(), atol=1e-10)
    found = solve(product, target, 200, 1e-8)
    dense = torch.linalg.solve(h, target.flatten()).view(5, 6)
    assert float((found - dense).norm() / dense.norm()) < 1e-3
    assert float(solve(product, torch.zeros(5, 6, dtype=torch.float64)).abs().max()) == 0


def test_4_a_held_out_point_among_the_rows_helps_and_with_another_label_harms():
    x, y = mixture(40, 0)
    xv, yv = mixture(1, 7)
    for label, sign in ((yv, 1), ((yv + 1) % 3, -1)):
        both, labels = torch.cat([x, xv]), torch.cat([y, label])
        w = fitted(both, labels)
        assert sign * float(pieces(w, both, labels, xv, yv)[-1]) > 0


def test_5_weights_are_above_0_of_mean_1_and_get_no_gradient(world):
    world.ws.data["held_out"] = world.records[:2]
    for weighing in ("sigmoid", "exp"):
        rows = weighed(world, world.records, weighing)
        weights = torch.tensor([r.notes["weight"] for r in rows])
        benefits = torch.tensor([r.notes["benefit"] for r in rows])
        assert float(weights.min()) > 0 and float(weights.mean()) == pytest.approx(1, abs=1e-6) and float(weights.std()) > 0.05
        assert torch.equal(weights.argsort(), benefits.argsort()) or weighing == "exp"
        assert all(isinstance(r.notes["weight"], float) for r in rows)
    b, alike = draw(50).float(), torch.full((4,), 3.0)
    for weighing, weights in (("sigmoid", sigmoid_weights), ("exp", exponential_weights)):
        scale, offset = scale_of(weighing, alike)
        assert torch.equal(weights(scale * alike + offset), torch.ones(4)), "equal benefits weigh alike"
    assert scale_of("sigmoid", b) == pytest.approx((1 / float(b.std(correction=0)), 0.0))
    outlying = torch.cat([b, torch.tensor([1e6])])
    scale, offset = scale_of("exp", torch.cat([b.repeat(4), torch.tensor([1e6])]))
    w = exponential_weights(scale * outlying + offset)
    assert float(w.max()) <= 2.71829 and float(w.min()) >= 0.3678 and float(w.std()) > 0.05, "an outlier does not flatten the rest"


def test_the_step_is_dense_autograd_over_the_whole_head(world):
    """Benefits of a model's rows against gradients and Hessian that autograd forms, on a few categories."""
    ws, held = world.ws, world.records[3:]
    ws.data["held_out"] = held
    rows = weighed(world, world.records[:3], temperature=2.0, damping=0.5, iterations=300, most=10**6)
    collate = Collate(world.tokenizer, 128)

    def read(some, model):
        batch = collate(some)
        with torch.no_grad():
            lazy = model.predict(batch.views["main"], frozenset({"next"}))["next"]
        return batch, lazy.hidden.double(), lazy.head.weight.double()

    batch, x, w = read(world.records[:3], ws.models["student"])
    _, t, wt = read(world.records[:3], ws.models["teacher"])
    _, xv, _ = read(held, ws.models["student"])
    p = (t @ wt.T / 2).softmax(-1)

    def row_loss(weight, mask):
        log_q = (x @ weight.T / 2).log_softmax(-1)
        return (4 * (p * (p.log() - log_q)).sum(-1))[mask].mean()

    w = w.requires_grad_()
    row = batch.units["tokens"].row
    held_loss = cross_entropy(xv @ w.T, collate(held).units["tokens"].target)
    (g_held,) = torch.autograd.grad(held_loss, w)
    direction = solve(HeadCurvature(w.detach(), x, 2.0, 0.5), g_held, 300, 1e-8)
    found = []
    for i in range(3):
        (g,) = torch.autograd.grad(row_loss(w, row == i), w)
        found.append(float((direction * g).sum()))
    want = torch.tensor(found) / torch.tensor(found).std(correction=0)
    assert torch.allclose(torch.tensor([r.notes["benefit"] for r in rows]), want, rtol=2e-2, atol=1e-3)
    v = draw(*w.shape, seed=3)
    every = torch.ones(len(x), dtype=torch.bool)
    (g,) = torch.autograd.grad(row_loss(w, every), w, create_graph=True)
    (hv,) = torch.autograd.grad((g * v).sum(), w)
    assert torch.allclose(HeadCurvature(w.detach(), x, 2.0, 0.5)(v), hv + 0.5 * v, atol=1e-9)


def test_bias_scale_and_low_rank_pairs_are_folded_into_the_weight():
    g = torch.Generator().manual_seed(0)
    weight, bias, a, b = (torch.randn(*s, generator=g) for s in ((7, 5), (7,), (2, 5), (7, 2)))
    h, head = torch.randn(4, 5, generator=g), Head(weight, bias, scale=0.5, size=6, low=((a, b, 0.3),))
    x, w = affine(h, head)
    assert torch.allclose(x @ w.T, head.squash(head.raw(h)), atol=1e-5)
    with pytest.raises(SettingError, match="soft-capped"):
        affine(h, Head(weight, cap=30.0))


def test_it_trains_scores_starts_afresh_and_trains_again():
    made = catalog.build("kd_aif").stages
    assert [type(s) for s in made] == [Change, Train, Change, Generate, Change, Train]
    assert [s.into for s in made if isinstance(s, Change)] == ["start", "influence", "student"]
    assert [s.name for s in catalog.build("kd_aif", {"restart": False}).stages] == ["first", "influence", "weigh", "train"]


def test_settings_and_missing_rows_are_refused(world):
    for wrong in ({"temperature": 0.0}, {"damping": 0.0}, {"iterations": 0}, {"positions": 0}):
        with pytest.raises(SettingError):
            kd_aif(**wrong)
    with pytest.raises(UnknownName, match="guess"):
        kd_aif(weighing="guess")
    with pytest.raises(UnknownName, match="held_out"):
        weighed(world, world.records)
    world.ws.data["held_out"] = []
    with pytest.raises(DataError, match="no rows"):
        weighed(world, world.records)
