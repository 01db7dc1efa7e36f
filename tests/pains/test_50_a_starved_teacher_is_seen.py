"""Elsewhere a teacher that no row reached any more went unnoticed, because the loss over the others looked healthy."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

import tutelage
from tutelage.core.errors import DataError

KIT = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
teacher_folder, data_folder, new_run, write_rows = (KIT[n] for n in ("teacher_folder", "data_folder", "new_run", "write_rows"))


@pytest.fixture
def run(new_run, teacher_folder, tmp_path):
    """A run with two teachers; the data's tags are given."""

    def make(tags, **teachers):
        rows = [{"id": f"q{i}", "prompt": f"Say {i}", "completion": "one two", "domain": t} for i, t in enumerate(tags)]
        data = write_rows(tmp_path / "tagged.jsonl", rows)
        table = new_run(recipe="g_opd_exopd", args={"max_tokens": 4, "teacher": teachers or {"math": "teacher", "code": "coder"}})
        table["models"]["coder"] = str(teacher_folder)
        table["data"]["train"] = {"path": str(data), "chat": True}
        table["train"] = {"steps": 2, "batch_size": 4, "max_length": 96}
        return table

    return make


def test_each_teachers_share_of_the_rows_is_in_the_log_of_every_step(run):
    done = tutelage.run(run(["math", "math", "math", "code"]))
    rows = [json.loads(x) for x in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(r["share of math"], r["share of code"]) for r in rows] == [(0.75, 0.25)] * 2


def test_a_starved_teacher_stands_at_0_and_costs_nothing(run):
    done = tutelage.run(run(["math"] * 4))
    rows = [json.loads(x) for x in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["share of code"] for r in rows] == [0, 0] and all(r["share of math"] == 1 for r in rows)
    assert "coder/predict" not in done.evaluation["ledger"] and "teacher/predict" in done.evaluation["ledger"]


def test_a_row_that_no_teacher_is_for_stops_the_run_before_anything_moves(run):
    with pytest.raises((DataError, tutelage.TutelageError), match=r"record 'q1', field 'domain'.*'maths'.*'math'"):
        tutelage.run(run(["math", "maths", "math", "code"]))
