"""TRG, check by check of its card; check 6 is tests/behaviour/test_trg.py."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core.errors import NeedError, SettingError
from tutelage.core.schedule import Progress
from tutelage.core.signal import Read
from tutelage.data.collate import Collate
from tutelage.models.parts import Widths
from tutelage.recipes.trg import trg
from tutelage.signals.graphs import NeighbourGraph, SameToken, SelfSimilarity, distinct, neighbours
from tutelage.signals.toward import Beneath
from tutelage.training.step import Plan, run_update
from tutelage.voices.says import Says

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, Fixed = (KIT[n] for n in ("world", "worst", "setting", "stage", "Fixed"))
limit, trains, step, same = (KIT[n] for n in ("limit", "trains", "step", "same"))
Q, P = (Read(who, through=(Beneath(),)) for who in ("student", "teacher"))


class Part:
    """A part as the world's steps want it: something with a model."""

    def __init__(self, model):
        self.model, self.parameters = model, model.parameters

    def __getitem__(self, index):
        return self.model[index]


LOCAL, GLOBAL, INNER = NeighbourGraph(Q, P, 3), SameToken(Q, P, temperature=0.1), SelfSimilarity(Q, P)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def values(setting, q, p, *signals):
    """Means of signals over units of given features: three rows of four units, or as many as there are."""
    made = setting(num_units=len(q), size=q.shape[1])
    made.hidden, made.teacher_hidden = q, p
    made.weight, made.teacher_weight = (torch.ones(11, x.shape[1], dtype=x.dtype) for x in (q, p))
    ctx = made.context()
    return [ctx(signal).mean() for signal in signals]


def test_1_equal_features_have_no_local_and_inner_loss_and_find_themselves(setting):
    p = draw(12, 5)
    q = p.clone().requires_grad_()
    local, inner, contrast = values(setting, q, p, LOCAL, INNER, GLOBAL)
    assert abs(float(local.detach())) < 1e-12 and abs(float(inner.detach())) < 1e-12
    unit = torch.nn.functional.normalize(p, dim=-1)
    assert torch.equal((unit @ unit.T).argmax(-1), torch.arange(12))
    for seed in range(3):
        other = values(setting, p + 0.5 * draw(12, 5, seed=seed + 1), p, LOCAL, INNER, GLOBAL)
        assert float(other[0]) > 1e-4 and float(other[1]) > 1e-6 and float(other[2]) > float(contrast.detach())
    for value in (local, inner):
        assert float(torch.autograd.grad(value, q, retain_graph=True)[0].abs().max()) < 1e-9


def test_2_turning_changes_neither_and_scaling_only_the_inner_loss(setting):
    p, q = draw(12, 5), draw(12, 5, seed=1)
    turn = torch.linalg.qr(draw(5, 5, seed=2))[0]
    base, turned, scaled = (values(setting, x, p, LOCAL, INNER) for x in (q, q @ turn, 3 * q))
    assert float(turned[0]) == pytest.approx(float(base[0]), abs=1e-12) and float(turned[1]) == pytest.approx(float(base[1]), abs=1e-12)
    assert float(scaled[0]) == pytest.approx(float(base[0]), abs=1e-9) and abs(float(scaled[1] - base[1])) > 1e-4


@pytest.mark.parametrize("reverse", [False, True])
def test_3_six_tokens_and_two_neighbours_are_a_plain_loop(setting, reverse):
    p, q = draw(6, 4), draw(6, 3, seed=1)
    near = []
    for i in range(6):
        order = sorted((j for j in range(6) if j != i), key=lambda j: float((p[i] - p[j]).square().sum()))
        near.append(order[:2])
    assert [sorted(n) for n in near] == [sorted(n) for n in neighbours(p, 2).tolist()] and all(i not in n for i, n in enumerate(near))
    rows = []
    for x in (p, q):
        squares = [[float((x[i] - x[j]).square().sum()) for j in near[i]] for i in range(6)]
        v = sum(map(sum, squares)) / 12
        a = [[math.exp(-s / (2 * v)) / 0.5 for s in some] for some in squares]
        rows.append([[math.exp(y) / sum(map(math.exp, some)) for y in some] for some in a])
    first, second = rows[::-1] if reverse else rows
    want = sum(f * math.log(f / s) for a, b in zip(first, second, strict=True) for f, s in zip(a, b, strict=True)) / 6
    got = values(setting, q, p, NeighbourGraph(Q, P, 2, temperature=0.5, reverse=reverse))[0]
    assert float(got) == pytest.approx(want, abs=1e-10)


def test_3_the_other_two_are_plain_loops_too(setting):
    p, q = draw(12, 5), draw(12, 5, seed=1)
    cos = torch.stack([torch.stack([torch.cosine_similarity(q[i], p[j], dim=0) for j in range(12)]) for i in range(12)]) / 0.1
    want = -sum(cos[i, i] - cos[i].logsumexp(0) for i in range(12)) / 12
    assert float(values(setting, q, p, GLOBAL)[0]) == pytest.approx(float(want), abs=1e-10)
    made = setting(num_units=12)
    made.hidden, made.teacher_hidden = q, p
    row, got = made.batch.units["tokens"].row, made.context()(INNER)
    for r in row.unique().tolist():
        a, b = ((x[row == r] @ x[row == r].T / 5**0.5).softmax(-1) for x in (q, p))
        assert float(got[row == r].mean()) == pytest.approx(float((a - b).square().mean()), abs=1e-12)


def test_4_the_order_of_tokens_changes_nothing(setting):
    p, q = draw(10, 5), draw(10, 5, seed=1)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    for a, b in zip(values(setting, q, p, LOCAL, GLOBAL), values(setting, q[order], p[order], LOCAL, GLOBAL), strict=True):
        assert float(a) == pytest.approx(float(b), abs=1e-10)


def test_5_no_gradient_to_the_teacher_and_the_map_gets_one_of_the_global_term_alone(setting, world):
    p, q = draw(12, 5).requires_grad_(), draw(12, 5, seed=1).requires_grad_()
    for value in values(setting, q, p, LOCAL, GLOBAL, INNER):
        to_q, to_p = torch.autograd.grad(value, [q, p], allow_unused=True)
        assert to_p is None and float(to_q.abs().max()) > 1e-6
    maps = Widths(1, 32, 32)
    world.ws.models["map"] = Part(maps)
    found = {}
    for only in ("local_scale", "global_scale", "inner_scale"):
        scales = {n: float(n == only) for n in ("local_scale", "global_scale", "inner_scale", "kd_scale", "label_scale")}
        update = replace(stage("trg", **scales).updates[0], moves=("student", "map"))
        for slot, model in world.ws.models.items():
            model.model.requires_grad_(slot in update.moves).zero_grad()
        plan, batch = Plan.of(update, {slot: Says(slot) for slot in world.ws.models}), Collate(world.tokenizer, 128)(world.records)
        run_update(plan, [batch], world.ws, Progress("train", 0, 10), backward=lambda v: v.backward(), reduce=lambda t: t, inside=lambda f: f())
        found[only] = 0.0 if maps[0].weight.grad is None else float(maps[0].weight.grad.abs().max())
        assert max(float(p.grad.abs().max()) for p in world.pair.student.model.parameters() if p.grad is not None) > 0
    assert found["local_scale"] == found["inner_scale"] == 0 and found["global_scale"] > 1e-6


@limit("trg", "local_scale=0, global_scale=0, inner_scale=0, label_scale=0: forward_kl with the same temperature.")
@limit("trg", "local_scale=0, global_scale=0, inner_scale=0, kd_scale=0: supervised.")
def test_without_graphs_it_is_plain_distillation(step):
    bare = {"local_scale": 0.0, "global_scale": 0.0, "inner_scale": 0.0}
    same(step(trains("trg", label_scale=0.0, **bare)[0]), step(trains("forward_kl", temperature=4.0)[0]))
    same(step(trains("trg", kd_scale=0.0, **bare)[0]), step(trains("supervised")[0]))


def test_some_tokens_are_drawn_and_equal_ones_count_once(setting):
    p, q = draw(12, 5), draw(12, 5, seed=1)
    made = setting(num_units=12)
    made.hidden, made.teacher_hidden = q, p
    few = made.context()(NeighbourGraph(Q, P, 2, most=5))
    assert int((few != 0).sum()) <= 5 and torch.equal(few, made.context()(NeighbourGraph(Q, P, 2, most=5)))
    both = torch.cat([p[:6], p[:6]])
    assert distinct(both, torch.arange(12)).tolist() == list(range(6)) and distinct(both, torch.tensor([3, 8, 9])).tolist() == [3, 8]
    made.teacher_hidden = both
    value = made.context()(LOCAL)
    assert float(value[6:].abs().max()) == 0 and float(value[:6].max()) > 0
    made.teacher_hidden = torch.ones(12, 5, dtype=torch.float64)
    assert float(made.context()(LOCAL).abs().max()) == 0, "one token has no neighbours"


def test_padding_changes_nothing_and_a_split_is_refused(world):
    update = stage("trg", global_scale=0.0).updates[0]
    want, told = world.gradients(update)
    for how in ({"padding": "left"}, {"pack": True}):
        got, also = world.gradients(update, **how)
        assert worst(got, want) < 1e-4 and also.loss == pytest.approx(told.loss, rel=1e-5)
    plan = Plan.of(update, {slot: Says(slot) for slot in world.ws.models})
    with pytest.raises(NeedError, match="micro_batch_size to"):
        plan.refuse_split(2)
    rows = Collate(world.tokenizer, 128)(world.records).units["tokens"].row
    assert torch.equal(rows, rows.sort().values), "units of a row are neighbours"


def test_settings_are_checked():
    nothing = dict.fromkeys(("local_scale", "global_scale", "inner_scale", "kd_scale", "label_scale"), 0.0)
    for wrong in ({"local_scale": -1.0}, {"num_neighbours": 0}, {"most": 1}, {"sharpness": 0.0}, {"fine": 0.0}, nothing):
        with pytest.raises(SettingError):
            trg(**wrong)
