"""The Python interface."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM

import tutelage
from tutelage.core.errors import SettingError, StoreError, TutelageError


@pytest.fixture(scope="module")
def finished(request):
    """A run of one stage, made once."""
    box = []

    def run(new_run):
        if not box:
            box.append(tutelage.run(new_run(recipe="forward_kl", args={}, train={"steps": 3, "batch_size": 4, "max_length": 96})))
        return box[0]

    return run


def test_run_gives_the_student_the_report_and_the_figures(finished, new_run):
    done = finished(new_run)
    assert AutoModelForCausalLM.from_pretrained(done.student).config.num_hidden_layers == 2
    assert done.report.exists() and done.folder.name == "tiny"
    assert done.evaluation["after"]["fidelity"]["kl"] < done.evaluation["before"]["fidelity"]["kl"]


def test_a_run_without_held_out_rows_says_so(new_run):
    said = []
    listener = type("L", (), {"stage": lambda *a: None, "step": lambda *a: None, "note": lambda self, text: said.append(text)})()
    done = tutelage.run(new_run(recipe="supervised", args={}, data__held_out=None, train={"steps": 1, "batch_size": 2}), listener=listener)
    assert done.evaluation == {} and done.report.exists()
    assert any("Nothing is measured" in text for text in said)
    assert said == json.loads((done.folder / "run.json").read_text())["notes"]


def test_evaluate_measures_models_from_anywhere(finished, new_run, teacher_folder, data_folder):
    done = finished(new_run)
    data = {"path": str(data_folder / "held.jsonl"), "chat": True}
    result = tutelage.evaluate({"student": str(done.student), "same": str(teacher_folder)}, str(teacher_folder), data)
    assert result["same"]["fidelity"]["kl"] == pytest.approx(0, abs=1e-6) and result["same"]["fidelity"]["top1"] == 1
    assert result["student"]["fidelity"]["kl"] == pytest.approx(done.evaluation["after"]["fidelity"]["kl"], rel=1e-4)
    loaded = tutelage.load(str(teacher_folder))
    again = tutelage.evaluate({"student": tutelage.load(str(done.student))}, loaded, data)
    assert again["student"]["fidelity"] == result["student"]["fidelity"]


@pytest.mark.parametrize("change", [{"skip": -1}, {"limit": 0}, {"paht": "x"}, {"columns": {"prompts": "x"}}])
def test_evaluate_refuses_wrong_tables_of_data(change, teacher_folder, data_folder):
    table = {"path": str(data_folder / "held.jsonl"), "chat": True, **change}
    with pytest.raises(SettingError):
        tutelage.evaluate({"a": str(teacher_folder)}, str(teacher_folder), table)


def test_evaluate_refuses_to_measure_nothing(teacher_folder, data_folder):
    with pytest.raises(SettingError, match="num_records"):
        tutelage.evaluate({"a": str(teacher_folder)}, str(teacher_folder), str(data_folder / "held.jsonl"), num_records=0)


def test_compare_and_report_work_on_what_run_made(finished, new_run):
    done = finished(new_run)
    page = done.report.read_bytes()
    assert tutelage.report(done.folder) == done.report and len(done.report.read_bytes()) == len(page)
    assert all(d.verdict == "cannot tell" for d in tutelage.compare([done.folder, done.folder], key=_alternate()))
    with pytest.raises(TutelageError):
        tutelage.compare([done.folder / "nothing"])


def _alternate():
    names = iter("ab" * 9)
    return lambda *_: next(names)


def test_a_run_file_is_a_value(new_run, tmp_path):
    from tutelage.running import runfile

    run = tutelage.RunFile(**new_run())
    file = tmp_path / "it.toml"
    file.write_text(run.to_toml())
    again = runfile.read(file)
    assert again.to_toml() == run.to_toml()
    assert all(again.settings(stage) == run.settings(stage) for stage in ("", "imitate", "correct"))
    assert runfile.read(file, ["train.imitate.steps=9", "name=other", "args.max_tokens=8"]).settings("imitate").steps == 9
    with pytest.raises(StoreError):
        runfile.read(tmp_path / "none.toml")


def test_a_repeated_stage_draws_anew_and_keeps_its_own_lines(new_run, tmp_path):
    """Each repetition is a stage of its own: other rows, other lines in the log, and each measured."""
    file = tmp_path / "thrice.py"
    file.write_text(
        '''"""Repeats."""
from tutelage.core.recipe import Evaluate, Recipe, Repeat, recipe
from tutelage.core.term import Term
from tutelage.recipes import base
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match
from tutelage.data.source import Corpus


@recipe(paper="none", family="mine", formula="KL(p || q)")
def thrice() -> Recipe:
    """Train, look, and again."""
    stage = base.train(Corpus("train"), Term("kl", Match(kl_forward)))
    return Recipe((Repeat("again", (stage, Evaluate("look")), 3),))
'''
    )
    table = new_run(recipe=str(file), args={}, train={"batch_size": 4, "max_length": 96, "train": {"steps": 2}})
    done = tutelage.run(table)
    rows = [json.loads(x) for x in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in rows] == [(f"again-{i}-train", s) for i in range(3) for s in (1, 2)]
    assert len({str(r["lengths"]) for r in rows}) > 2, "each repetition draws its own rows"
    kls = [done.evaluation[n]["fidelity"]["kl"] for n in ("before", "again-0-look", "again-1-look", "again-2-look", "after")]
    assert kls[0] > kls[1] and len(set(kls[:4])) == 4 and kls[3] == kls[4]
