"""Runs whose models are split over their processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tutelage
from tutelage.core.errors import NeedError, SettingError

WORKER = Path(__file__).with_name("worker.py")


def sharded(table):
    models = {slot: {"load": m} if isinstance(m, str) else m for slot, m in table["models"].items()}
    return {**table, "models": {slot: {**m, "shard": True} for slot, m in models.items()}}


def figures(folder):
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = json.loads((folder / "evaluation.json").read_text())
    return [r["loss"] for r in rows], [r["held_out_kl"] for r in rows if "held_out_kl" in r], [
        measured[name]["fidelity"]["kl"] for name in ("before", "after")
    ]  # fmt: skip


def test_two_processes_with_split_models_run_it_to_the_same_student(new_run, tmp_path):
    """Cutting, measuring, watching, keeping the best, exporting; and the finished run is not done again."""
    train = {"batch_size": 4, "max_length": 96, "steps": 4, "learning_rate": 3e-3, "watch_every": 2, "keep_best": True}
    one = tutelage.run(new_run("one", recipe="opd", train=train)).folder
    table = sharded(new_run("two", recipe="opd", train=train))
    job = tmp_path / "run.json"
    job.write_text(json.dumps(table))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(33500 + os.getpid() % 2000)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run([*launch, str(WORKER), str(job)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    two = tmp_path / "two" / "tiny"
    for ours, theirs in zip(figures(two), figures(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    a, b = (load_file(folder / "student" / "model.safetensors") for folder in (one, two))
    assert a.keys() == b.keys() and max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-5
    assert any("Split over 2 processes: teacher, student" in note for note in json.loads((two / "run.json").read_text())["notes"])
    # by one process, with whole weights: it is the same run, and what was trained is read from both halves
    before = (two / "student" / "model.safetensors").read_bytes()
    again = tutelage.run({**table, "models": new_run("two", recipe="opd")["models"]}).folder
    assert again == two and (two / "student" / "model.safetensors").read_bytes() == before


def test_one_process_says_that_it_splits_nothing(new_run):
    folder = tutelage.run(sharded(new_run(recipe="forward_kl", args={}, train={"steps": 1, "max_length": 96}))).folder
    notes = json.loads((folder / "run.json").read_text())["notes"]
    assert "models.student.shard has no effect in a run of one process." in notes


@pytest.mark.parametrize(
    ("recipe", "args", "why"),
    [
        ("strong_to_weak", {"max_tokens": 6}, "the first process writes with it alone"),
        ("opsd", {"max_tokens": 6}, "a copy of it is kept"),
    ],
)
def test_what_one_process_does_alone_is_refused_before_anything_loads(recipe, args, why, new_run):
    with pytest.raises(NeedError, match=why):
        tutelage.run(sharded(new_run(recipe=recipe, args=args, train={"steps": 1})))


def test_eight_bits_are_not_split(new_run, teacher_folder):
    table = new_run(recipe="forward_kl", args={}, train={"steps": 1})
    table["models"]["teacher"] = {"load": str(teacher_folder), "bits": 8, "shard": True}
    with pytest.raises(SettingError, match="in eight bits.*Leave shard out"):
        tutelage.run(table)
