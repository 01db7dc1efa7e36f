"""Random teachers, check by check of their card; check 6 is tests/behaviour/test_random_teachers.py."""

from __future__ import annotations

import copy
import importlib.util
import runpy
import sys
from pathlib import Path

import pytest
import torch

from tutelage.core.catalog import build
from tutelage.core.errors import DataError, ModelError, SettingError
from tutelage.core.record import Piece, Record
from tutelage.core.workspace import Workspace
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.features import Features
from tutelage.evaluation.metrics.probe import Probe, linear_probe, nearest, standardised
from tutelage.models.fresh import between, redrawn
from tutelage.recipes.random_teachers import random_teachers
from tutelage.surgery.fresh import Fresh, Towards

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, limit, trains, step, size = (KIT[n] for n in ("world", "worst", "limit", "trains", "step", "size"))


def module(name):
    spec = importlib.util.spec_from_file_location(f"of_behaviour_{name}", Path(__file__).parents[1] / "behaviour" / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


encoders, rounds = module("encoders"), module("rounds")


def begun(world, away=0.3):
    """The world with the teacher drawn and the student begun, as the recipe's changes leave them."""
    for change in random_teachers(away=away).stages[:2]:
        world.ws.models[change.into] = change.by(world.ws)
    world.pair.student.model.load_state_dict(world.ws.models["student"].model.state_dict())
    world.ws.models["student"] = world.pair.student
    return world


@limit("random_teachers", "away=0, without batch statistics and dropout: no gradient.")
def test_1_at_the_teachers_own_weights_the_student_stands_still(step, world):
    begun(world, 0.0)
    grads, told, _ = step(trains("random_teachers", away=0.0)[0])
    assert size(grads) < 1e-7 and told.loss > 1
    begun(world, 0.3)
    assert size(step(trains("random_teachers")[0])[0]) > 1e-3


@pytest.fixture(scope="module")
def bodies():
    points, _ = encoders.clusters(0, 1024)
    return {statistics: encoders.encoder("student", points, statistics) for statistics in (False, True)}


def after(bodies, statistics, tmp_path, steps=3, **given):
    """The workspace after some steps, and the teacher's tensors as it was drawn."""
    kept = {}

    def see(path, ws):
        if path == "start":
            kept.update({slot: copy.deepcopy(ws.models[slot].model.state_dict()) for slot in ("random", "student")})

    ws = rounds.run("random_teachers", {"student": bodies[statistics]}, {"train": encoders.rows(1024)}, tmp_path, steps=steps, seed=1,
                    batch_size=4, learning_rate=1e-3, after=see, given=given)  # fmt: skip
    return ws, kept


def moved(ws, before):
    return max(float((v - before["student"][k]).abs().max()) for k, v in ws.models["student"].model.state_dict().items() if v.is_floating_point() and "running" not in k)


def test_1_without_batch_statistics_its_features_never_change(bodies, tmp_path):
    ids = torch.arange(64)
    ws, before = after(bodies, False, tmp_path, away=0.0)
    student, teacher = (encoders.features(ws.models[slot], ids) for slot in ("student", "random"))
    assert float((student - teacher).abs().max()) < 1e-3 * float(teacher.abs().max())
    assert moved(after(bodies, False, tmp_path, away=0.3)[0], before) > 1e-3


def test_2_batch_statistics_give_a_gradient_at_the_teachers_own_weights(bodies, tmp_path):
    ws, before = after(bodies, True, tmp_path, away=0.0)
    assert moved(ws, before) > 1e-3
    assert all(torch.equal(before["random"][k], v) for k, v in before["student"].items()), "they began alike"


def test_3_no_parameter_and_no_buffer_of_the_teacher_changes(bodies, tmp_path):
    ws, before = after(bodies, True, tmp_path, away=0.3)
    now = ws.models["random"].model.state_dict()
    assert now.keys() == before["random"].keys() and any("running" in k for k in now)
    assert all(torch.equal(now[k], v) for k, v in before["random"].items())


@pytest.mark.parametrize("away", [0.0, 0.3, 0.5, 1.0])
def test_4_the_student_begins_with_the_teachers_variance(away, bodies, new_causal):
    for model in (bodies[True], new_causal("student", hidden_size=64)):
        one, other = redrawn(model, 1), redrawn(model, 2)
        made = between(one, other, away)
        first, new = dict(one.inner.named_parameters()), dict(other.inner.named_parameters())
        for name, weight in made.inner.named_parameters():
            if weight.numel() > 8000 and weight.dim() == 2:
                assert float(weight.detach().std()) == pytest.approx(float(first[name].detach().std()), rel=0.05), name
            if torch.equal(first[name], new[name]):
                assert torch.equal(weight, first[name]), "what both begin with alike is not scaled"
            for end, at in ((first, 0.0), (new, 1.0)):
                assert away != at or torch.allclose(weight, end[name])
    big = encoders.Config(torch.zeros(2, 512), True, width=512)
    pair = [encoders.Causal("big", encoders.Encoder(big)) for _ in range(2)]
    mixed = between(*pair, away).inner.base_model.layers[0][0].weight
    assert float(mixed.detach().std()) == pytest.approx(float(pair[0].inner.base_model.layers[0][0].weight.detach().std()), rel=0.02)


def test_4_a_draw_is_of_the_seed_and_of_the_architecture_and_leaves_the_generator(new_causal, tmp_path):
    ws = Workspace(tmp_path, 7)
    ws.models["student"] = model = new_causal("student", seed=3)
    state = torch.random.get_rng_state()
    one, again, other = Fresh("student", "a")(ws), Fresh("student", "a")(ws), Fresh("student", "b")(ws)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [m.inner.get_input_embeddings().weight for m in (one, again, other, model)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])
    assert type(one.inner) is type(model.inner) and one.tokenizer is model.tokenizer
    assert one.head.weight.data_ptr() == weights[0].data_ptr(), "tied as the architecture ties them"
    with pytest.raises(SettingError, match="away"):
        Towards("student", 1.5)
    pytest.importorskip("peft")
    from tutelage.models.adapter import adapted

    with pytest.raises(ModelError, match="adapter"):
        redrawn(adapted(model, rank=2), 0)


def probed(seed, permuted):
    points, label = encoders.clusters(seed, 1200)
    if permuted:
        label = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))]
    rows = [Record(f"{i}", (), {"features": x.tolist()}, {"label": float(y)}) for i, (x, y) in enumerate(zip(points, label, strict=True))]
    return Probe()(rows)


def test_5_labels_permuted_at_random_are_read_at_chance():
    told, chance = probed(0, False), probed(0, True)
    assert told["linear"] > 0.5 and told["nearest"] > 0.4 and told["num_fit"] == told["num_test"] == 600
    assert abs(chance["linear"] - 0.1) < 0.04 and abs(chance["nearest"] - 0.1) < 0.04 and chance["majority"] < 0.15


def test_probes_are_the_convex_optimum_and_the_brute_force_neighbours_and_know_no_scale():
    g = torch.Generator().manual_seed(2)
    x, y, other = torch.randn(60, 4, generator=g, dtype=torch.float64), torch.randint(3, (60,), generator=g), torch.randn(40, 4, generator=g, dtype=torch.float64)
    x[:, 0] += y
    scaled = torch.tensor([100.0, 1, 0.01, 5])
    assert torch.equal(linear_probe(x, y, other), linear_probe(x * scaled, y, other * scaled))
    assert torch.equal(nearest(x, y, other, k=5), nearest(x * scaled, y, other * scaled, k=5))
    fit, test = standardised(x, other)
    assert torch.allclose(fit.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-12) and torch.allclose(fit.std(0, correction=0), torch.ones(4, dtype=torch.float64))
    want = []
    for row in test:
        order = sorted(range(60), key=lambda i: float((fit[i] - row).square().sum()))[:5]
        votes = [int(y[i]) for i in order]
        want.append(max(range(3), key=lambda c: (votes.count(c), -c)))
    assert nearest(x, y, other, k=5).tolist() == want
    w = torch.zeros(5, 3, dtype=torch.float64, requires_grad=True)
    ones = torch.cat([fit, torch.ones(60, 1, dtype=torch.float64)], 1)
    adam = torch.optim.Adam([w], lr=0.05)
    for _ in range(1500):
        adam.zero_grad()
        (torch.nn.functional.cross_entropy(ones @ w, y) + 5e-4 * w[:-1].square().sum()).backward()
        adam.step()
    mine = (torch.cat([test, torch.ones(40, 1, dtype=torch.float64)], 1) @ w.detach()).argmax(-1)
    assert (linear_probe(x, y, other) == mine).double().mean() > 0.97
    with pytest.raises(SettingError, match="share"):
        Probe(share=1.0)
    with pytest.raises(DataError, match="rows"):
        Probe()([])


def test_features_are_the_states_before_the_head_in_eval_mode(world):
    rows = [Record(f"r{i}", (Piece("a " * (i + 1), "user"),)) for i in range(3)]
    got = list(run_steps((Features("student", batch_size=2),), rows, world.ws))
    alone = [next(run_steps((Features("student"),), [r], world.ws)).fields["features"] for r in rows]
    assert all(len(r.fields["features"]) == world.pair.student.hidden_size for r in got)
    for one, other in zip(got, alone, strict=True):
        assert one.fields["features"] == pytest.approx(other, abs=1e-5)
    with pytest.raises(SettingError, match="batch_size"):
        Features(batch_size=0)


@limit("random_teachers", "with the run's teacher for the random one: the gradient of forward_kl on all text.")
def test_with_the_runs_teacher(step, world):
    world.ws.models["random"] = world.ws.models["teacher"]
    grads, told, rows = step(trains("random_teachers")[0])
    want, plain, same = step(trains("forward_kl", trains="all")[0])
    assert rows == same and worst(grads, want) < 2e-6 and told.loss > plain.loss


def test_probes_are_of_both_networks_only_where_there_is_a_label():
    assert [s.name for s in random_teachers().stages] == ["draw", "start", "train"]
    *_, probe = random_teachers(label="topic", classes=("a", "b"), neighbours=3).stages
    assert {who: steps[-1].slot for who, steps in probe.systems.items()} == {"random": "random", "student": "student"}
    assert probe.metrics["probe"].k == 3
    for arguments in ({"label": "topic"}, {"classes": ("a", "b")}, {"away": 2.0}):
        with pytest.raises(SettingError, match="random_teachers"):
            build("random_teachers", arguments)
