"""Runs whose schedules, shares and buffers remember: killed in the middle, they end as if nothing had been."""

import json
import runpy
from pathlib import Path

import pytest

RUNNING = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
teacher_folder, data_folder = RUNNING["teacher_folder"], RUNNING["data_folder"]
new_run, forks = RUNNING["new_run"], RUNNING["forks"]
SETTINGS = {
    "taid": {"rate": 0.3},
    "ddk": {"every": 2},
    "distillm": {"max_tokens": 5, "start": 0.7, "every": 2, "margin": 0.0},
    "minillm": {"max_tokens": 5, "reuse": 3},
}
TIMES = ("time", "tokens_per_second")


def rows(table):
    lines = (Path(table["output"]) / table["name"] / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_goes_on_with_what_it_remembered(name, new_run, forks):
    train = {"steps": 6, "batch_size": 3, "max_length": 96, "learning_rate": 3e-3, "checkpoint_seconds": 1e-9}
    whole, killed = (new_run(folder, recipe=name, args=SETTINGS[name], train=train) for folder in ("whole", "killed"))
    assert forks(whole)["code"] == 0
    assert forks(killed, kill="train 4")["code"] == -9
    told = forks(killed)
    assert told["code"] == 0, told["said"]
    assert len(rows(whole)) == 6 and rows(killed) == rows(whole)
