"""The checks of the card: the shares' update, the deck that deals them out, and what is measured to steer them."""

from __future__ import annotations

import json
import math
import runpy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tutelage
from tutelage.core import catalog
from tutelage.core.errors import DataError, SettingError, UnknownName
from tutelage.core.feedback import Chase
from tutelage.core.recipe import Generate, Train
from tutelage.core.schedule import Progress, memories
from tutelage.data.deal import Dealt, largest_remainder
from tutelage.data.gauge import Gauge, Gauged
from tutelage.data.pipeline import run_steps
from tutelage.data.source import Corpus
from tutelage.signals.match import Targets

TRAINING = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
RUNNING = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
world, worst = TRAINING["world"], TRAINING["worst"]
teacher_folder, data_folder, new_run = RUNNING["teacher_folder"], RUNNING["data_folder"], RUNNING["new_run"]
NAMES = ("a", "b", "c")


def told(chase, *scores):
    chase.observe(Progress(), dict(zip(chase.follows, scores, strict=True)))
    return chase.shares


# -- checks 1 to 3: the controller ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.5, 1.0])
def test_equal_scores_leave_equal_shares_and_pull_others_to_them_exactly(keep):
    chase = Chase(NAMES, keep)
    for _ in range(3):
        assert told(chase, 1.7, 1.7, 1.7) == pytest.approx((1 / 3,) * 3)
    chase.load_state_dict({"shares": [0.7, 0.2, 0.1]})
    for _ in range(4):
        before = chase.shares
        now = told(chase, 1.2, 1.2, 1.2)
        assert now == pytest.approx([keep * r + (1 - keep) / 3 for r in before])
        assert sum(now) == pytest.approx(1, abs=1e-6) and min(now) >= (1 - keep) / 3 - 1e-12


def test_without_keeping_anything_shares_are_equal_whatever_the_scores():
    chase = Chase(NAMES, 0.0)
    told(chase, 3.0, 1.0, 1.0)
    assert told(chase, 3.0, 1.0, 1.0) == pytest.approx((1 / 3,) * 3)


def test_from_equal_shares_and_keeping_all_it_is_the_softmax_that_the_first_scores_give():
    scores = torch.tensor([2.0, 1.1, 1.5], dtype=torch.float64)
    first = told(Chase(NAMES, 0.5), *scores.tolist())
    later = Chase(NAMES, 1.0)
    later.load_state_dict({"shares": [1 / 3] * 3})
    assert first == pytest.approx(scores.softmax(0).tolist())
    assert told(later, *scores.tolist()) == pytest.approx(first)


def test_the_cards_hand_case():
    chase = Chase(("a", "b"), 0.5)
    chase.load_state_dict({"shares": [0.5, 0.5]})
    assert told(chase, 2.0, 1.0) == pytest.approx((0.6155, 0.3845), abs=5e-5)


def test_without_smoothing_the_softmax_is_taken_anew_and_hopeless_scores_are_bounded():
    chase = Chase(NAMES, 0.5, smooth=False)
    for scores in ((3.0, 1.0, 1.0), (1.0, 2.0, 1.5)):
        assert told(chase, *scores) == pytest.approx(torch.tensor(scores).softmax(0).tolist(), abs=1e-6)
    bounded = told(Chase(NAMES), 1e9, math.inf, 1.0)
    assert bounded[0] == bounded[1] == pytest.approx(0.5) and sum(bounded) == pytest.approx(1)
    chase = Chase(NAMES)
    before = chase.shares
    assert told(chase, math.nan, 1.0, 1.0) == before
    chase.observe(Progress(), {"a": 1.0})
    assert chase.shares == before


# -- check 4: the deck ---------------------------------------------------------------------------------------------------
@pytest.fixture
def data(world):
    sizes = {"a": 50, "b": 30, "c": 20}
    for name, size in sizes.items():
        world.ws.data[name] = [world.row(f"{name}{i}", f"say {name} {i}", f"{i}") for i in range(size)]
    return world


def dealt(shares, every=10, names=NAMES):
    chase = Chase(names)
    if shares:
        chase.load_state_dict({"shares": list(shares)})
    return Dealt(tuple(map(Corpus, names)), chase, every)


def draws(source, ws, steps, size, rank=0, world=1):
    return [[r.id for r in source.draw(Progress("train", s, 1000), ws, size, rank, world)] for s in steps]


def test_counts_are_exact_in_an_interval_and_natural_in_the_first(data):
    source = dealt((0.6, 0.25, 0.15), every=20)
    first, second = (Counter(i[0] for step in draws(source, data.ws, range(k * 20, k * 20 + 20), 10) for i in step) for k in (0, 1))
    assert first == {"a": 100, "b": 60, "c": 40} and second == {"a": 120, "b": 50, "c": 30}
    assert source.figures() == pytest.approx({"share.a": 0.6, "share.b": 0.25, "share.c": 0.15})


def test_over_many_draws_the_frequencies_are_the_shares():
    shares, num = (0.613, 0.27, 0.117), 100_000
    counts = largest_remainder(shares, num)
    assert sum(counts) == num
    assert all(abs(c - r * num) <= 3 * math.sqrt(num * r * (1 - r)) and abs(c - r * num) < 1 for c, r in zip(counts, shares, strict=True))
    assert largest_remainder((1 / 3, 1 / 3, 1 / 3), 10) == [4, 3, 3] and largest_remainder((0.7, 0.2, 0.1), 10) == [7, 2, 1]
    assert largest_remainder((0.5, 0.5), 0) == [0, 0]


def test_a_step_is_a_sample_of_the_interval_not_its_beginning(data):
    steps = draws(dealt((0.5, 0.3, 0.2), every=50), data.ws, range(50, 100), 10)
    assert len({tuple(sorted(Counter(i[0] for i in step).items())) for step in steps}) > 5


def test_only_data_that_is_used_up_starts_over(data):
    """Each row of a data set comes once before any comes again, across intervals and changing shares."""
    source = dealt((0.1, 0.1, 0.8), every=5)
    seen = [i for step in draws(source, data.ws, range(15), 10) for i in step]
    for name, size in (("a", 50), ("b", 30), ("c", 20)):
        mine = [i for i in seen if i[0] == name]
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            assert len(set(part)) == len(part)
    assert Counter(i for i in seen if i[0] == "c").most_common(1)[0][1] > 1 >= Counter(i for i in seen if i[0] == "a").most_common(1)[0][1]


def test_processes_share_the_deck_and_a_run_goes_on_where_it_was(data):
    alone = draws(dealt((0.5, 0.4, 0.1), every=4), data.ws, range(12), 6)
    parts = [draws(dealt((0.5, 0.4, 0.1), every=4), data.ws, range(12), 6, rank, 3) for rank in range(3)]
    assert [[i for p in parts for i in p[s]] for s in range(12)] == alone
    half = dealt((0.5, 0.4, 0.1), every=4)
    draws(half, data.ws, range(6), 6)
    other = dealt((0.5, 0.4, 0.1), every=4)
    other.load_state_dict(json.loads(json.dumps(half.state_dict())))
    assert draws(other, data.ws, range(6, 12), 6) == alone[6:]


# -- check 5 and the measurement ---------------------------------------------------------------------------------------------
@pytest.fixture
def stage(data):
    """The recipe over two domains, its validation sets scored."""
    for name in ("a", "b"):
        data.ws.data[f"{name}.held"] = [data.row(f"h{name}{i}", f"what {name} {i}?", f"that {i} it is") for i in range(3)]
    made = catalog.build("ddk", {"domains": ("a", "b"), "held": ("a.held", "b.held"), "every": 2})
    for some in made.stages:
        if isinstance(some, Generate):
            data.ws.data[some.into] = list(run_steps(some.steps, data.ws.data[some.over], data.ws))
    return made.stages[-1]


def perplexity(model, rows, world):
    from tutelage.data.collate import Collate

    batch = Collate(world.tokenizer, 200)(rows)
    with torch.no_grad():
        scores = model.predict(batch.views["main"], frozenset({"next"}))["next"].at(slice(None))
    return math.exp(-float(scores.gather(-1, batch.units["tokens"].target[:, None]).double().mean()))


def test_the_score_is_the_students_perplexity_over_the_teachers_which_is_computed_once(data, stage):
    found = stage.source.gauge(data.ws)
    for name in ("a", "b"):
        rows = data.ws.data[f"{name}.held"]
        want = perplexity(data.pair.student, rows, data) / perplexity(data.pair.teacher, rows, data)
        assert found[f"{name}.held.scored"] == pytest.approx(want, rel=1e-4)

    def refuse(*_, **__):
        raise AssertionError("the teacher was called")

    data.ws.models["teacher"].predict = refuse
    assert stage.source.gauge(data.ws) == found


def test_shares_follow_the_measurement_every_second_step_and_validation_rows_are_never_dealt(data, stage):
    source, chase = stage.source, stage.source.tells[0]
    history, drawn = [], set()
    for step in range(6):
        with torch.no_grad():
            drawn |= {r.pieces[0].content for r in source.draw(Progress("train", step, 6), data.ws, 4)}
        history.append(chase.shares)
    assert history[0] == history[1] != history[2] == history[3] != history[4] == history[5]
    assert not drawn & {r.pieces[0].content for name in ("a", "b") for r in data.ws.data[f"{name}.held"]}
    assert len(memories({"stage": stage})) == 3, "the controller once, though two parts hold it"
    assert {"gauge.a.held.scored", "chase.a.held.scored", "share.a"} <= {k for m in memories({"stage": stage}).values() for k in m.figures()}


def test_a_validation_row_in_a_domain_is_refused(data, stage):
    data.ws.data["a"] = [*data.ws.data["a"], replace(data.ws.data["b.held"][0], id="copy")]
    with pytest.raises(DataError, match="never trained on"):
        stage.source.draw(Progress("train", 0, 6), data.ws, 4)


def test_the_teacher_gets_no_gradient(data, stage):
    with torch.no_grad():
        rows = stage.source.draw(Progress("train", 0, 6), data.ws, 4)
    data.gradients(stage.updates[0], rows=rows)
    assert all(p.grad is None for p in data.pair.teacher.model.parameters())


def test_a_gauged_source_goes_on_without_measuring_twice(data, monkeypatch):
    calls = []
    monkeypatch.setattr(Gauge, "__call__", lambda self, ws: calls.append(1) or {"a": 1.0})
    source = Gauged(Corpus("b"), Gauge(Targets(), (Corpus("a"),)), (), every=3)
    draws(source, data.ws, range(4), 4)
    assert len(calls) == 2
    other = Gauged(Corpus("b"), Gauge(Targets(), (Corpus("a"),)), (), every=3)
    other.load_state_dict(json.loads(json.dumps(source.state_dict())))
    draws(other, data.ws, range(3, 6), 4)
    assert len(calls) == 2 and other.figures() == {"gauge.a": 1.0}
    other.reset()
    draws(other, data.ws, range(3, 4), 4)
    assert len(calls) == 3


def test_what_cannot_work_is_refused_when_built(data):
    for arguments in ({"domains": ("a", "b")}, {"domains": (), "held": ()}, {"kl_scale": -1.0}, {"every": 0}, {"keep": 2.0}):
        with pytest.raises(SettingError):
            catalog.build("ddk", arguments)
    with pytest.raises(UnknownName, match="got 'A'"):
        Train("train", Gauged(Dealt((Corpus("x"),), Chase(("A",)), 5), Gauge(Targets(), (Corpus("a"),)), (Chase(("A",)),)), ())
    with pytest.raises(DataError, match="a position to measure|one position"):
        data.ws.data["a"] = []
        Gauge(Targets(), (Corpus("a"),))(data.ws)


def test_it_runs_over_two_domains_measures_at_rest_and_logs_the_shares(new_run, data_folder, monkeypatch):
    """At rest: in eval mode and without a graph, although a step of training came before."""
    seen, plain = [], Gauge.__call__

    def watched(self, ws):
        model = ws.models["student"].model
        seen.append((model.training, torch.is_grad_enabled(), any(m.training for m in model.modules())))
        return plain(self, ws)

    monkeypatch.setattr(Gauge, "__call__", watched)
    table = new_run(recipe="ddk", args={"domains": ["train", "more"], "held": ["held_out", "other"], "every": 1},
                    train={"steps": 3, "batch_size": 4, "max_length": 96, "learning_rate": 3e-3})  # fmt: skip
    file = str(data_folder / "train.jsonl")
    table["data"]["train"] |= {"limit": 6}
    table["data"]["more"] = {"path": file, "chat": True, "skip": 6, "limit": 4}
    table["data"]["other"] = {"path": file, "chat": True, "skip": 10}
    done = tutelage.run(table)
    rows = [json.loads(x) for x in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert seen == [(False, False, False)] * 3
    assert rows[0]["share.train"] == pytest.approx(0.6, abs=0.26) and all(r["share.train"] + r["share.more"] == 1 for r in rows)
    assert all(r["chase.other.scored"] >= 0.25 - 1e-9 for r in rows[1:]) and {"labels", "kl"} <= rows[0].keys()
