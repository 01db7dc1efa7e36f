"""The checks of the card: what is cached is what a live teacher would say, and nobody calls it afterwards."""

from __future__ import annotations

import json
import runpy
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tutelage
from tutelage.core import catalog
from tutelage.core.context import Context
from tutelage.core.errors import DataError, SettingError, UnknownName
from tutelage.core.feedback import Alarm
from tutelage.core.needs import needs
from tutelage.core.recipe import Generate, Train
from tutelage.core.schedule import Progress
from tutelage.core.signal import Noted, Read
from tutelage.core.term import Term, Update
from tutelage.data.collate import Collate
from tutelage.data.origin import SameOrigin, Signed, Vouched
from tutelage.data.pipeline import run_steps
from tutelage.data.source import Corpus
from tutelage.signals.policy import ScoreFunction
from tutelage.signals.readouts import LogProb, gap
from tutelage.voices.says import Says

TRAINING = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
RUNNING = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
world, worst = TRAINING["world"], TRAINING["worst"]
teacher_folder, data_folder, new_run = RUNNING["teacher_folder"], RUNNING["data_folder"], RUNNING["new_run"]
ONLINE = Update((Term("correct", ScoreFunction(gap())),))


def sign(model, name):
    model.facts.update(weights_sha256=name * 8, tokenizer_sha256="t" * 16)


@pytest.fixture
def cache(world):
    """What the Generate stages leave, and the last stage."""
    sign(world.pair.teacher, "A")
    sign(world.pair.student, "S")
    world.records = [replace(r, group="") for r in world.records]
    ws = world.ws
    ws.data["train"] = world.records

    def make(**arguments):
        made = catalog.build("lightning_opd", {"max_tokens": 7, **arguments})
        for stage in made.stages:
            if isinstance(stage, Generate):
                ws.data[stage.into] = list(run_steps(stage.steps, ws.data[stage.over], ws.within(stage.name)))
        return made.stages[-1]

    return make


def scored(world, rows, who):
    ctx = Context(Collate(world.tokenizer, 200)(rows), {s: Says(s) for s in world.ws.models}, {}, frozenset(), world.ws)
    with torch.no_grad():
        return ctx(LogProb(Read(who))), ctx


def test_at_the_first_step_the_gradient_is_that_of_a_live_teacher_on_the_same_rollouts(world, cache):
    stage = cache()
    rows = world.ws.data["rollouts"]
    offline, _ = world.gradients(stage.updates[0], rows=rows)
    online, _ = world.gradients(ONLINE, rows=rows)
    assert worst(offline, online) < 1e-6 and max(float(g.abs().max()) for g in online.values()) > 1e-4


def test_cached_scores_are_a_fresh_teacher_pass_token_by_token_cut_answers_and_eos_included(world, cache):
    cache(max_tokens=3)
    rows = world.ws.data["rollouts"]
    ends = world.tokenizer.eos_token_id
    stopped = rows[0].pieces[-1]
    rows = [replace(rows[0], pieces=(*rows[0].pieces[:-1], replace(stopped, ids=(*stopped.ids[:2], ends), stop="eos", notes={}))), *rows[1:]]
    stage = catalog.build("lightning_opd").stages[2]
    rows = list(stage.steps[2](iter(rows), world.ws))
    assert {r.pieces[-1].stop for r in rows} == {"eos", "length"}
    want, ctx = scored(world, rows, "teacher")
    got = ctx.batch.notes["tokens.teacher"]
    assert torch.allclose(got, want, atol=1e-5) and len(got) == sum(len(r.pieces[-1].ids) for r in rows)
    assert not torch.allclose(got[1:], want[:-1], atol=1e-2), "a slice shifted by one would be seen"


def test_the_teacher_scores_under_the_students_template(world, cache, new_tokenizer):
    """Both have one vocabulary and other templates: the rows are rendered as training renders them."""
    foreign = new_tokenizer()
    foreign.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    world.pair.teacher.tokenizer = foreign
    cache()
    rows = world.ws.data["rollouts"]
    want, ctx = scored(world, rows, "teacher")
    assert torch.allclose(ctx.batch.notes["tokens.teacher"], want, atol=1e-5)


def test_the_teacher_is_never_called_after_the_cache(world, cache):
    stage = cache()

    def refuse(*_, **__):
        raise AssertionError("the teacher was called")

    world.ws.models["teacher"].predict = refuse
    with torch.no_grad():
        rows = stage.source.draw(Progress("correct", 0, 5), world.ws.within("correct"), 4)
    world.gradients(stage.updates[0], rows=rows)
    with pytest.raises(AssertionError, match="was called"):
        world.gradients(ONLINE, rows=rows)


def test_the_advantage_follows_the_student_and_old_log_probs_would_give_another_gradient(world, cache):
    stage = cache()
    rows = world.ws.data["rollouts"]
    with torch.no_grad():
        for parameter in world.pair.student.model.parameters():
            parameter.mul_(1.05)
    now, _ = world.gradients(stage.updates[0], rows=rows)
    online, _ = world.gradients(ONLINE, rows=rows)
    stale, _ = world.gradients(Update((Term("x", ScoreFunction(Noted("teacher") - Noted("log_prob"))),)), rows=rows)
    assert worst(now, online) < 1e-5 and worst(stale, online) > 1e-2


def test_a_student_that_is_its_teacher_stays(world, cache):
    world.ws.models["student"] = world.pair.teacher
    world.pair.student = world.pair.teacher
    stage = cache()
    grads, _ = world.gradients(stage.updates[0], rows=world.ws.data["rollouts"])
    assert max(float(g.abs().max()) for g in grads.values()) < 1e-4


def test_another_teacher_is_refused_before_a_rollout_is_written(world, cache):
    cache()
    sign(world.pair.teacher, "B")
    made = catalog.build("lightning_opd", {"max_tokens": 5, "taught": "answers"})
    before = world.ws.ledger.get("student", "sample").tokens
    with pytest.raises(DataError) as told:
        list(run_steps(made.stages[0].steps, world.records, world.ws))
    error = told.value
    assert "AAAAAAAA" in error.got and "BBBBBBBB" in error.got and "strict=false" in error.remedy
    assert world.ws.ledger.get("student", "sample").tokens == before
    with pytest.warns(UserWarning, match="one and the same teacher"):
        SameOrigin("teacher", ("answers",), now=True, strict=False).check(world.ws)


def test_rows_of_two_teachers_or_of_nobody_are_refused_when_training_begins_and_warned_of_if_so_wished(world, cache):
    stage = cache()
    rows = world.ws.data["rollouts"]
    first = Progress("correct", 0, 5)
    stage.source.draw(first, world.ws, 2)
    for mark in ({"weights": "C" * 8, "tokenizer": "t" * 16}, None):
        fields = {k: v for k, v in rows[0].fields.items() if k != "teacher"} | ({"teacher": mark} if mark else {})
        world.ws.data["rollouts"] = [replace(rows[0], fields=fields), *rows[1:]]
        with pytest.raises(DataError, match="CCCC" if mark else "nobody"):
            stage.source.draw(first, world.ws, 2)
        with pytest.warns(UserWarning, match="origin of"):
            assert Vouched(Corpus("rollouts"), replace(stage.source.check, strict=False)).draw(first, world.ws, 2)
    world.ws.data["rollouts"] = rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stage.source.draw(first, world.ws, 2)


def test_a_cache_trains_in_a_run_without_a_teacher(new_run):
    """The first run writes answers and rollouts; the second has their files and no teacher at all."""
    settings = {"steps": 1, "batch_size": 4, "max_length": 96, "learning_rate": 3e-3}
    first = tutelage.run(new_run(recipe="lightning_opd", args={"max_tokens": 6}, train=settings))
    table = new_run(recipe="lightning_opd", name="alone", args={"taught": "told", "cached": "kept"}, train=settings)
    data = {name: {"path": str(first.folder / "data" / stage / "rows.jsonl")} for name, stage in (("told", "write"), ("kept", "cache"))}
    table["data"].update(data)
    table["models"] = {"student": {"load": str(first.student)}}
    done = tutelage.run(table)
    (row,) = [json.loads(x) for x in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert {"correct", "drift"} <= row.keys() and row["grad_norm"] > 0
    told = json.loads((first.folder / "data" / "cache" / "manifest.json").read_text())["key"]
    assert {"teacher's weights", "student's weights"} <= told.keys()


def test_what_is_needed_and_named_is_checked_when_built(new_run):
    assert needs(catalog.build("lightning_opd", {"taught": "a", "cached": "b"})).keys() == {"student"}
    assert needs(catalog.build("lightning_opd"))["teacher"] == {"text", "next.target"}, "no whole distribution"
    with pytest.raises(SettingError, match="without taught"):
        catalog.build("lightning_opd", {"cached": "b"})
    with pytest.raises(UnknownName, match="Did you mean 'train'"):
        tutelage.run(new_run(recipe="lightning_opd", args={"prompts": "trian"}, train={}))
    assert isinstance(catalog.build("lightning_opd").stages[-1], Train)


def test_drift_is_zero_at_the_start_and_said_once_above_its_bound(world, cache):
    stage = cache(temperature=1.0)
    _, told = world.gradients(stage.updates[0], rows=world.ws.data["rollouts"])
    assert told.tallies["drift"].mean == pytest.approx(0, abs=1e-5)
    alarm = Alarm("drift", 0.1, "Stop.")
    said = [alarm(Progress("correct", s, 9), (), {"drift": x}) for s, x in enumerate((0.0, 0.05, float("nan"), 0.2, 0.3))]
    assert [len(x) for x in said] == [0, 0, 0, 1, 0] and "Step 4" in said[3][0] and "0.2" in said[3][0]
    other = Alarm("drift", 0.1, "Stop.")
    other.load_state_dict(alarm.state_dict())
    assert other(Progress("correct", 5, 9), (), {"drift": 1.0}) == ()


def test_a_signature_names_weights_and_tokenizer(world, cache):
    cache()
    (row,) = Signed("teacher")(iter(world.records[:1]), world.ws)
    assert row.fields["teacher"] == {"weights": "A" * 8, "tokenizer": "t" * 16}
