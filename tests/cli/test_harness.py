"""`tutelage evaluate --harness`."""

from __future__ import annotations

import importlib.util
import json

import pytest


@pytest.fixture
def asked(tutelage, new_run, data_folder):
    def run(*more):
        teacher = new_run()["models"]["teacher"]
        return tutelage("evaluate", teacher, "--teacher", teacher, "--data", data_folder / "held.jsonl", "--chat", "--num-records", 2, *more)

    return run, new_run()["models"]["teacher"]


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="package lm-eval is not installed")
def test_tasks_are_run_beside_the_other_figures(asked):
    run, teacher = asked
    told = run("--harness", "exact", "--max-tokens", 4)
    assert told.code == 0 and "exact: right" in told.out and "agreement, teacher wrong" in told.out, told.err
    found = json.loads(run("--harness", "exact", "--harness", "number", "--max-tokens", 4, "--json").out)
    assert set(found["harness"]) == {teacher, "teacher"} and set(found["harness"]["teacher"]) == {"exact", "number"}


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="package lm-eval is not installed")
def test_an_unknown_task_is_refused(asked):
    asked[0]("--harness", "exct").refused("exct", "'exact'")


def test_without_the_package_it_says_what_to_install(asked, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "lm_eval" else find(name, *a))
    asked[0]("--harness", "exact").refused("lm-eval", "pip install 'tutelage[harness]'")
