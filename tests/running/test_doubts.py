"""What a run's settings cannot do is said before its first step, by the run and by its plan; and rewards that never differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tutelage
from tutelage.core.errors import NeedError
from tutelage.core.schedule import Progress
from tutelage.running import runfile
from tutelage.running.watchers import Flat

KAT = {"recipe": "kat", "args": {"max_tokens": 6}, "train": {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}}


def test_a_run_and_its_plan_say_that_nothing_will_be_cut(new_run):
    table = new_run(**KAT)
    done = tutelage.run(table)
    notes = json.loads((done.folder / "notes.json").read_text())
    (said,) = [n for n in notes if "nothing is cut" in n]
    assert "answers have 6 at most" in said and said.startswith("Stage 'train'")
    assert said in tutelage.plan(runfile.validate(table), timed=False).notes


def test_a_choice_of_as_many_tokens_as_there_are(new_run):
    wide, narrow = (
        tutelage.plan(runfile.validate(new_run(recipe="aopd", args={"num_kept": k}, train={"steps": 2})), timed=False).notes for k in (10**6, 8)
    )
    assert any("Top(k=1000000) keeps each of" in n for n in wide) and not any("Top" in n for n in narrow)


def test_micro_batches_of_a_term_that_relates_the_batch_are_refused_before_anything_loads(new_run):
    table = new_run(recipe="trg", args={}, train={"steps": 2, "batch_size": 4, "micro_batch_size": 2})
    for call in (lambda: tutelage.plan(runfile.validate(table), timed=False), lambda: tutelage.run(table)):
        with pytest.raises(NeedError, match="2 micro-batches"):
            call()
    assert not list(Path(table["output"]).rglob("run.json")), "nothing was begun"
    table["train"]["micro_batch_size"] = 4
    assert tutelage.plan(runfile.validate(table), timed=False).stages


def test_rewards_that_never_differ_are_said_once():
    watch, said = Flat(patience=3), []
    alike = [1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    for step, mean in enumerate(alike[:5]):
        said.append(watch(Progress("train", step, 9), (), {"all alike": mean}))
    again = Flat(patience=3)
    again.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    said += [again(Progress("train", 5 + i, 9), (), {"all alike": mean}) for i, mean in enumerate(alike[5:])]
    assert [len(s) for s in said] == [0, 0, 0, 0, 0, 1, 0]
    assert "for 3 steps the rewards of every group were all equal" in said[5][0]
    assert not Flat(1)(Progress(), (), {"kl": 1.0})
