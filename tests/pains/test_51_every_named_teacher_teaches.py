"""Elsewhere a teacher with a certain name was silently dropped from the configuration once a second one was added."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import tutelage
from tutelage.core.errors import NeedError, SettingError
from tutelage.voices import Route

KIT = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
teacher_folder, data_folder, new_run, write_rows = (KIT[n] for n in ("teacher_folder", "data_folder", "new_run", "write_rows"))
NAMES = ("teacher_model", "teacher", "model", "default")


def table(new_run, folder, tmp_path, slots):
    rows = [{"id": f"q{i}", "prompt": f"Say {i}", "completion": "one two", "domain": f"d{i % 4}"} for i in range(4)]
    made = new_run(recipe="g_opd_exopd", args={"max_tokens": 4, "teacher": {f"d{i}": name for i, name in enumerate(NAMES)}})
    made["models"] = {"student": {"shrink": {"layers": 2, "num_records": 4}}} | {name: str(folder) for name in slots}
    made["data"]["train"] = {"path": str(write_rows(tmp_path / "tagged.jsonl", rows)), "chat": True}
    made["train"] = {"steps": 1, "batch_size": 4, "max_length": 96}
    return made


def test_teachers_of_any_names_are_each_asked_for_their_own_rows(new_run, teacher_folder, tmp_path):
    done = tutelage.run(table(new_run, teacher_folder, tmp_path, NAMES))
    asked = {name: done.evaluation["ledger"][f"{name}/predict"]["tokens"] for name in NAMES}
    assert all(asked.values())


def test_a_teacher_that_is_not_loaded_is_refused_before_anything_loads(new_run, teacher_folder, tmp_path):
    with pytest.raises(NeedError, match="also model"):
        tutelage.run(table(new_run, teacher_folder, tmp_path, [n for n in NAMES if n != "model"]))


def test_two_teachers_for_one_tag_are_refused_not_the_last_one_taken():
    with pytest.raises(SettingError, match="each tag once"):
        Route("domain", (("math", "teacher_model"), ("math", "teacher")))
    with pytest.raises(SettingError):
        Route("domain", ())


def test_a_model_that_nothing_reads_is_refused_before_it_costs_memory(new_run, teacher_folder, tmp_path):
    made = table(new_run, teacher_folder, tmp_path, NAMES)
    made["models"]["spare"] = str(teacher_folder)
    with pytest.raises(SettingError, match="models.spare.*nothing in recipe"):
        tutelage.run(made)
