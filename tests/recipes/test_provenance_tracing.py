"""The checks of the card that are the recipe's: who chooses what, and what is traced afterwards; the others are its parts'.

Check 1, 2: tests/data/test_credit.py. Check 3, 4: tests/data/test_likelihood.py. Check 5: tests/data/steps/test_credit.py.
"""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import pytest

import tutelage
from tutelage.core import catalog
from tutelage.core.errors import NeedError, SettingError
from tutelage.core.recipe import Change, Evaluate, Generate, Train
from tutelage.core.record import Piece, Record
from tutelage.data.pipeline import run_steps
from tutelage.models.sample import Sample

RUNS = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
teacher_folder, data_folder, new_run = RUNS["teacher_folder"], RUNS["data_folder"], RUNS["new_run"]
KIT = runpy.run_path(str(Path(__file__).parents[1] / "data" / "test_likelihood.py"))
SMALL = {"max_tokens": 12, "candidates": 3}
TRAIN = {"steps": 2, "batch_size": 4, "max_length": 96, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, teacher_folder, data_folder):
    """A run with its verdicts, its folder, and the table it came from."""
    make = RUNS["new_run"].__wrapped__ if hasattr(RUNS["new_run"], "__wrapped__") else None
    assert make is not None
    table = make(teacher_folder, data_folder, tmp_path_factory.mktemp("runs"))(
        recipe="provenance_tracing", args={**SMALL, "verifier": "exact"}, train=TRAIN
    )
    return tutelage.run(table), table


def rows(folder, name):
    return [Record.from_dict(json.loads(x)) for x in (folder / "data" / name / "rows.jsonl").read_text().splitlines()]


def test_stages():
    choose, keep, train, trace = catalog.build("provenance_tracing").stages
    assert isinstance(choose, Generate) and isinstance(keep, Change) and isinstance(train, Train) and isinstance(trace, Evaluate)
    assert [type(s) for s in catalog.build("provenance_tracing", {"trace": False}).stages] == [Generate, Train]


def test_one_answer_a_question_is_trained_on_and_it_is_the_one_with_most_teacher_sentences(tmp_path, monkeypatch):
    """The training set is as large as the random baseline's: a candidate of 3 short sentences of the teacher beats others."""
    said = iter(["So. So. So. So.", "Too. Too. Be.", "Too. Be. Too. Be. So. So.", "Too. Too. So. Too. So. So. So."] * 2)
    ws = KIT["workspace"](tmp_path)
    tokenizer = KIT["make_tokenizer"]()
    for slot, word in (("teacher", "T"), ("student", "S")):
        rule = lambda before, token, word=word: 0.9 if word in (before + token).rpartition(".")[2] else 0.2
        ws.models[slot] = KIT["Told"](tokenizer, rule)

    def write(model, prompts, settings, seeds, places=None):
        texts = [tokenizer(next(said))["input_ids"] for _ in prompts]
        return [Sample(tuple(ids), (0.0,) * len(ids), (0.0,) * len(ids), "length") for ids in texts]

    monkeypatch.setattr("tutelage.data.steps.ask.sample", write)
    prompts = [Record(f"q{n}", (Piece("Q: "),)) for n in range(2)]
    out = list(run_steps(catalog.build("provenance_tracing").stages[0].steps, prompts, ws))
    assert [r.id for r in out] == ["q0#3", "q1#3"] and all(r.notes["from_teacher"] == 3 for r in out)
    assert ws.ledger.get("from_teacher against length", "same").calls == 2
    assert ws.ledger.get("teacher", "sample").calls == 8


def test_the_loss_is_cross_entropy_on_the_answer_alone():
    (term,) = catalog.build("provenance_tracing").stages[2].updates[0].objective
    (plain,) = catalog.build("seqkd").stages[1].updates[0].objective
    assert term == plain


def test_the_traced_student_is_compared_with_its_own_starting_point(finished):
    run, _ = finished
    start, end = run.folder / "slots" / "keep" / "model.safetensors", run.student / "model.safetensors"
    begun = run.folder / "slots" / "student-start" / "model.safetensors"
    assert start.read_bytes() != end.read_bytes() and begun.exists()
    for row in rows(run.folder, "trace-student"):
        for sentence in row.fields["credit"]:
            assert set(sentence["p"]) == {"teacher", "start", "student"}
            assert all(0 < p <= 1 for p in sentence["p"].values()) and sentence["p"]["start"] != sentence["p"]["student"]


def test_the_run_keeps_profiles_costs_and_the_page_shows_them(finished):
    run, table = finished
    found = run.evaluation["systems"]["trace"]["student"]
    held = table["evaluate"]["num_records"]
    profile = found["provenance"]
    assert found["num_prompts"] == found["num_rows"] == held == sum(profile["num_records"].values())
    assert profile["shares"]["all"] and math.isclose(sum(profile["shares"]["all"].values()), 1)
    assert profile["num_sentences"] == sum(r["count"] for side in profile["by_position"].values() for r in side)
    assert found["cost"]["start/predict"]["tokens"] > 0 and found["cost"]["student/sample"]["calls"] == held
    ledger = run.evaluation["ledger"]
    assert ledger["start/predict"] == found["cost"]["start/predict"]
    assert sum(ledger[f"from_teacher against length/{k}"]["calls"] for k in ("same", "other") if f"from_teacher against length/{k}" in ledger) == 12
    page = run.report.read_text()
    assert "Where sentences come from" in page and "plot-provenance" in page


def test_run_again_it_repeats_nothing(finished):
    run, table = finished
    before = {p: p.stat().st_mtime_ns for p in (run.folder / "data").rglob("*")}
    was = run.evaluation
    (run.folder / "evaluation.json").unlink()
    again = tutelage.run(table)
    assert {p: p.stat().st_mtime_ns for p in (run.folder / "data").rglob("*")} == before
    assert again.evaluation["systems"] == was["systems"] and again.evaluation["ledger"] == was["ledger"]


def test_without_held_out_data_it_says_that_nothing_is_traced(new_run):
    table = new_run(recipe="provenance_tracing", args=SMALL, train=TRAIN, data__held_out=None)
    notes = json.loads((tutelage.run(table).folder / "run.json").read_text())["notes"]
    assert any("'trace' measures nothing" in note for note in notes)


def test_a_server_that_gives_text_alone_is_refused_before_anything_loads(new_run, teacher_folder):
    table = new_run(recipe="provenance_tracing", args=SMALL, train=TRAIN)
    table["models"]["teacher"] = {"url": "http://127.0.0.1:9", "model": "m", "top_k": 0}
    table["models"]["student"] = str(teacher_folder)
    with pytest.raises(NeedError, match=r"next\.target"):
        tutelage.run(table)


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"beta": 0.2, "adaptive_beta": True}, "one of the two"), ({"beta": 0.01}, "alpha <= beta"), ({"by": "share"}, "by"),
        ({"candidates": 0}, "times"), ({"verifier": "nobody"}, "verifier"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, match):
    with pytest.raises(SettingError, match=match):
        catalog.build("provenance_tracing", arguments)
