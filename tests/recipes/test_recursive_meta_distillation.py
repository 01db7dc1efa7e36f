"""Recursive meta-distillation, check by check of its card; with the recipe, check 6 is its behaviour test."""

from __future__ import annotations

import copy
import math
import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core.catalog import build
from tutelage.core.errors import SettingError
from tutelage.core.needs import needs
from tutelage.core.recipe import Change, Repeat
from tutelage.core.scores import Dense
from tutelage.core.workspace import Workspace
from tutelage.evaluation.generations import AXIOMS, Contracting, broken_axioms
from tutelage.recipes.recursive_meta_distillation import recursive_meta_distillation
from tutelage.signals.divergences import kl_forward
from tutelage.voices.blend import Blend, Mixed

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, limit, trains, step, same, size = (KIT[n] for n in ("world", "worst", "limit", "trains", "step", "same", "size"))
DRAWS, V = 1000, 20


def pooled(log_q, log_p, anchor, geometric):
    """What the recipe's blend says."""
    return Mixed((Dense(log_q), Dense(log_p)), (1 - anchor, anchor), geometric).at(slice(None))


def linear(log_q, log_p, anchor):
    return pooled(log_q, log_p, anchor, False)


def geometric(log_q, log_p, anchor):
    return pooled(log_q, log_p, anchor, True)


def dirichlet(seed, draws=DRAWS):
    g = torch.Generator().manual_seed(seed)
    x = -torch.rand(draws, V, generator=g, dtype=torch.float64).log()
    return (x / x.sum(-1, keepdim=True)).log()


both = pytest.mark.parametrize("operator", [linear, geometric])


@both
@pytest.mark.parametrize("anchor", [0.05, 0.3, 0.8])
def test_1_a_generation_contracts_kl_to_the_base_by_1_less_the_anchor(operator, anchor):
    log_q, log_p = dirichlet(0), dirichlet(1)
    before, after = kl_forward(log_q, log_p), kl_forward(operator(log_q, log_p, anchor), log_p)
    assert (after[before > 1e-12] <= (1 - anchor) * before[before > 1e-12]).all()
    assert (after < before).all() and (after > 0).all()


@both
def test_2_near_the_base_the_ratio_tends_to_the_square(operator):
    log_p = dirichlet(2)
    near = (log_p + 1e-4 * torch.randn(log_p.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).log_softmax(-1)
    ratio = kl_forward(operator(near, log_p, 0.3), log_p) / kl_forward(near, log_p)
    assert torch.allclose(ratio, torch.full_like(ratio, 0.49), rtol=2e-2)


@both
def test_3_an_anchor_of_1_is_the_base_in_one_step_and_of_0_changes_nothing(operator):
    log_q, log_p = dirichlet(4), dirichlet(5)
    assert torch.equal(operator(log_q, log_p, 1.0), log_p)
    assert torch.equal(operator(log_q, log_p, 0.0), log_q)


def truncated(log_q, log_p, anchor):
    log_m = linear(log_q, log_p, anchor)
    least = log_m.topk(5, dim=-1).values[:, -1:]
    return log_m.masked_fill(log_m < least, -math.inf).log_softmax(-1)


def sharpened(log_q, log_p, anchor):
    return torch.where(torch.tensor(anchor == 1.0), log_p, linear((2 * log_q).log_softmax(-1), log_p, anchor))


def swapped(log_q, log_p, anchor):
    order = torch.arange(log_q.shape[-1])
    order[[0, 1]] = order[[1, 0]]
    return linear(log_q[:, order], log_p, anchor) if anchor < 1 else log_p


@both
def test_4_the_axioms_hold_of_both_pools(operator):
    assert broken_axioms(operator) == {}


@pytest.mark.parametrize(
    ("operator", "axiom"), [(truncated, "support"), (sharpened, "fixed point"), (swapped, "equivariance")],
    ids=["top-k truncation", "sharpening without an anchor", "a swap of two tokens"],
)  # fmt: skip
def test_4_the_axioms_reject(operator, axiom):
    found = broken_axioms(operator)
    assert found[axiom] > 1e-3 and set(found) <= set(AXIOMS)
    assert broken_axioms(lambda q, p, anchor: linear(q, p, anchor) + 0.1)["simplex"] > 0.05
    assert broken_axioms(lambda q, p, anchor: linear(q, p, anchor / 2))["anchor"] > 0.05
    assert "contraction" in broken_axioms(lambda q, p, anchor: linear(q, p, anchor**2))
    assert broken_axioms(lambda q, p, anchor: q.round().log_softmax(-1))["continuity"] > 0.05
    with pytest.raises(SettingError, match="3 categories"):
        broken_axioms(linear, categories=2)


def test_5_the_pool_of_log_probabilities_is_the_normalised_product_and_three_same_teachers_are_one():
    log_q, log_p = dirichlet(6), dirichlet(7)
    product = log_q.exp() ** 0.7 * log_p.exp() ** 0.3
    assert torch.allclose(geometric(log_q, log_p, 0.3).exp(), product / product.sum(-1, keepdim=True), atol=1e-12)
    for geo in (False, True):
        parts = tuple(Dense(x) for x in (log_q, log_p, log_p, log_p))
        three = Mixed(parts, (0.7, 0.1, 0.1, 0.1), geo).at(slice(None))
        assert torch.allclose(three, pooled(log_q, log_p, 0.3, geo), atol=1e-12)


def simulated(anchor, runs=20, generations=60, samples=400):
    """KL to the base after each generation, estimated anew from samples of the pool with 0.1 smoothing."""
    log_p = dirichlet(8, runs)
    log_q, out = log_p, []
    g = torch.Generator().manual_seed(9)
    for _ in range(generations):
        drawn = torch.multinomial(linear(log_q, log_p, anchor).exp(), samples, replacement=True, generator=g)
        counts = torch.zeros(runs, V, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
        log_q = ((counts + 0.1) / (samples + 0.1 * V)).log()
        out.append(float(kl_forward(log_q, log_p).mean()))
    return out


def test_6_with_estimation_errors_anchored_recursions_plateau_and_the_other_drifts():
    curves = {anchor: simulated(anchor) for anchor in (0.0, 0.1, 0.3, 1.0)}
    last = {anchor: curve[-1] for anchor, curve in curves.items()}
    assert 0.8 < last[0.0] < 2.0 and 0.08 < last[0.1] < 0.2 and 0.03 < last[0.3] < 0.06 and 0.018 < last[1.0] < 0.032
    assert last[0.0] > last[0.1] > last[0.3] > last[1.0]
    assert curves[0.0][-1] > 1.5 * curves[0.0][29], "without an anchor it goes on rising"
    assert all(max(curves[a][30:]) < 1.6 * min(curves[a][30:]) for a in (0.1, 0.3, 1.0))


def rounds(**arguments):
    stages = recursive_meta_distillation(**arguments).stages
    return stages[:-1], stages[-1]


def test_the_pool_is_of_the_last_generations_and_of_the_base_never_of_a_pool():
    first, repeat = rounds(history=3, anchor=0.4, bases=("teacher", "other"), geometric=True)
    assert isinstance(repeat, Repeat) and repeat.times == 3
    voice = trains("recursive_meta_distillation", history=3, anchor=0.4, bases=("teacher", "other"), geometric=True)[0].voices["meta"]
    assert voice.voices == ("last-1", "last-2", "last-3", "teacher", "other") and voice.geometric
    assert voice.shares == pytest.approx((0.2, 0.2, 0.2, 0.2, 0.2))
    moved = [(s.into, s.by.slot) for s in repeat.stages if isinstance(s, Change)]
    assert moved == [("last-3", "last-2"), ("last-2", "last-1"), ("last-1", "student")], "the oldest leaves first"
    assert [(s.into, s.by.slot) for s in first] == [("last-2", "student"), ("last-3", "student")]
    assert not {into for into, _ in moved} & {"teacher", "student"}


def test_where_the_pool_writes_its_text_is_what_trains():
    _, repeat = rounds(written=True, max_tokens=5)
    _, write, train, _ = repeat.stages
    assert write.into == train.source.name == "generation" and isinstance(write.steps[0].who, Blend)
    assert write.steps[0].who.shares == pytest.approx((0.7, 0.3)) and not {r.who for t in train.updates[0].objective for r in t.loss.reads()} - {"student"}
    assert needs(build("recursive_meta_distillation", {"written": True}))["teacher"] >= {"next"}


def test_it_stops_once_the_distance_no_longer_falls(world):
    until = rounds()[1].until
    assert isinstance(until, Contracting) and until.most == pytest.approx(1.0)
    ws = Workspace(world.ws.folder, 0)
    ws.models.update(world.ws.models)
    assert until(ws) is False and "generations" not in ws.results, "nothing to measure on"
    ws.data["held_out"] = world.records
    student = ws.models["student"]
    assert until(ws) is False
    assert until(ws) is False, "the same distance is not a rise"
    with torch.no_grad():
        ws.models["student"] = further = copy.deepcopy(student)
        for parameter in further.model.parameters():
            parameter.mul_(3)
    assert until(ws) is True
    first, again, last = ws.results["generations"]
    assert first == again and last > first > 0
    strict = rounds(anchor=0.9, tolerance=0.1)[1].until
    ws.results.clear()
    ws.models["student"] = student
    assert strict.most == pytest.approx(0.2) and strict(ws) is False and strict(ws) is True


@limit("recursive_meta_distillation", "anchor=1, generations=1: forward_kl.")
def test_alone_with_the_teacher(step, world):
    world.ws.models["last-1"] = copy.deepcopy(world.ws.models["student"])
    (stage,) = trains("recursive_meta_distillation", anchor=1.0, generations=1)
    same(step(stage), step(trains("forward_kl")[0]))


@limit("recursive_meta_distillation", "anchor=0: no gradient in the first step of any generation.")
def test_alone_with_itself(step, world):
    world.ws.models["last-1"] = copy.deepcopy(world.ws.models["student"])
    for geo in (False, True):
        (still,) = trains("recursive_meta_distillation", anchor=0.0, geometric=geo)
        (moving,) = trains("recursive_meta_distillation", anchor=0.3, geometric=geo)
        assert size(step(still)[0]) < 1e-6 * size(step(moving)[0]) or size(step(still)[0]) < 1e-7


@pytest.mark.parametrize(
    "arguments",
    [{"generations": 0}, {"history": 0}, {"anchor": 1.1}, {"anchor": -0.1}, {"bases": ()}, {"tolerance": -1.0}, {"geometric": True, "written": True}],
)
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(SettingError, match="generations"):
        recursive_meta_distillation(**arguments)
