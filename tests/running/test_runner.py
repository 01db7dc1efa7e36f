"""A whole run: what it leaves behind, that it goes on from anywhere, and that two processes are as one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tutelage
from tutelage.core.errors import StoreError

WORKER = Path(__file__).with_name("worker.py")
TIMES = ("time", "tokens_per_second")


def weights(folder: Path) -> bytes:
    return (folder / "student" / "model.safetensors").read_bytes()


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in lines]


def fidelity(folder: Path) -> dict:
    table = json.loads((folder / "evaluation.json").read_text())
    return {name: table[name]["fidelity"]["kl"] for name in ("before", "after")}


@pytest.fixture(scope="module")
def whole(request, tmp_path_factory, forks):
    """An undisturbed run's folder and its table."""
    found: dict[str, tuple[Path, dict]] = {}

    def run(new_run) -> tuple[Path, dict]:
        if not found:
            table = new_run(tmp_path_factory.mktemp("whole"))
            told = forks(table)
            assert told["code"] == 0, told["said"]
            found["it"] = (Path(table["output"]) / table["name"], table)
        return found["it"]

    return run


def test_what_a_run_leaves_behind(whole, new_run):
    folder, table = whole(new_run)
    model = AutoModelForCausalLM.from_pretrained(folder / "student")
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    assert model.config.num_hidden_layers == 2 and len(tokenizer) == model.config.vocab_size
    assert tokenizer.chat_template and (folder / "student" / "generation_config.json").exists()
    card = (folder / "student" / "README.md").read_text()
    for said in ("strong", table["models"]["teacher"].rsplit("/", 1)[1], "train.jsonl", "seed", "mit"):
        assert said in card, said
    page = (folder / "report.html").read_text()
    assert page.lower().startswith("<!doctype html") and "strong_to_weak" in page
    assert [(r["stage"], r["step"]) for r in metrics(folder)] == [
        *(("imitate", i) for i in range(1, 5)), *(("correct", i) for i in range(1, 4))
    ]
    assert all(r["loss"] > 0 and r["grad_norm"] > 0 and len(r["lengths"]) == 4 for r in metrics(folder))
    written = tutelage.RunFile(**tomllib.loads((folder / "run.toml").read_text()))
    assert written.to_toml() == tutelage.RunFile(**table).to_toml() == (folder / "run.toml").read_text()
    assert written.settings("imitate") == tutelage.RunFile(**table).settings("imitate")
    facts = json.loads((folder / "run.json").read_text())
    assert facts["recipe"] == "strong_to_weak" and "Ask(who='teacher'" in facts["resolved"]
    assert len(facts["facts"]["teacher"]["weights_sha256"]) == 64 and facts["versions"]["torch"] == torch.__version__
    assert set(fidelity(folder)) == {"before", "after"}
    sample = json.loads((folder / "evaluation.json").read_text())["samples"][0]
    assert sample["teacher"]["text"] and set(sample["systems"]) == {"before", "after"}
    assert not list((folder / "checkpoints").glob("*/step-*"))
    hidden = [p for p in folder.rglob(".*") if not p.name.startswith(".git")]
    assert not hidden, "nothing half written stays behind"


def test_a_finished_run_changes_nothing_when_run_again(whole, new_run, forks):
    folder, table = whole(new_run)

    def content():
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "report.html")
        return {str(p.relative_to(folder)): p.read_bytes() for p in files}

    before = content()
    told = forks(table)
    assert told["code"] == 0, told["said"]
    after = content()
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []


def same_as(folder: Path, whole: Path) -> None:
    assert weights(folder) == weights(whole)
    assert metrics(folder) == metrics(whole)
    assert fidelity(folder) == fidelity(whole)


@pytest.mark.parametrize("kill", ["write 2", "imitate 2", "correct 1", "stage measure after"])
def test_kill_9_in_each_stage_and_run_again(kill, whole, new_run, forks):
    folder, _ = whole(new_run)
    table = new_run("killed")
    assert forks(table, kill=kill)["code"] == -9
    told = forks(table)
    assert told["code"] == 0, told["said"]
    same_as(Path(table["output"]) / "tiny", folder)


def test_kill_9_again_and_again(whole, new_run, forks):
    """Killed in every stage of one run, and just before files are put in place: those appear whole or not at all."""
    folder, _ = whole(new_run)
    table = new_run("killed")
    kills = (
        "rename 2", "stage measure before", "stage write", "rename 2", "stage imitate", "rename 3", "imitate 3",
        "rename 2", "stage correct", "correct 3", "rename 2",
    )  # fmt: skip
    for kill in kills:
        told = forks(table, kill=kill)
        assert told["code"] == -9, (kill, told["said"])
    assert forks(table)["code"] == 0
    same_as(Path(table["output"]) / "tiny", folder)


@pytest.mark.parametrize(
    "function, number",
    [
        ("tutelage.training.checkpoint.save_file", 3),
        ("tutelage.data.files.write_all", 4),
        ("tutelage.models.export._write", 2),
    ],
    ids=["a checkpoint", "rows", "the student"],
)
def test_a_full_disk_loses_nothing(function, number, whole, new_run, forks):
    folder, _ = whole(new_run)
    table = new_run("full")
    told = forks(table, full=[function, number])
    assert told["code"] == 2 and "No space left" in told["said"] and "free " in told["said"].lower(), told["said"]
    told = forks(table)
    assert told["code"] == 0, told["said"]
    same_as(Path(table["output"]) / "tiny", folder)


@pytest.mark.parametrize("lost", ["checkpoints/imitate/final", "checkpoints/correct/final", "slots/student-start"])
def test_a_lost_part_is_made_again(lost, whole, new_run, forks, tmp_path):
    folder, _ = whole(new_run)
    copy = tmp_path / "copy" / "tiny"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / lost)
    (copy / "run.toml").unlink()
    told = forks(new_run("copy"))
    assert told["code"] == 0, told["said"]
    assert weights(copy) == weights(folder) and fidelity(copy) == fidelity(folder)
    order = lambda row: (row["stage"], row["step"])  # a stage that is run again stands last
    assert sorted(metrics(copy), key=order) == sorted(metrics(folder), key=order)


@pytest.mark.parametrize(
    "file, content",
    [
        ("checkpoints/imitate/final/slot-student.safetensors", b"x"),
        ("checkpoints/imitate/final/manifest.json", b"{"),
        ("data/write/rows.jsonl", b"{]\n"),
        ("data/write/manifest.json", b"{"),
        ("state.json", b'{"don'),
        ("evaluations/before.json", b"{"),
        ("slots/student-start/model.safetensors", b"xx"),
    ],
)
def test_a_damaged_part_is_named_and_going_on_is_possible(file, content, whole, new_run, forks, tmp_path):
    """The message names the file; doing what it says lets the run go on to the same end."""
    folder, _ = whole(new_run)
    copy = tmp_path / "copy" / "tiny"
    shutil.copytree(folder, copy)
    (copy / "run.toml").unlink()
    (copy / file).write_bytes(content)
    told = forks(new_run("copy"))
    assert told["code"] == 2 and Path(file).name.split(".")[0].split("-")[0] in told["said"], told["said"]
    assert "Traceback" not in told["said"] and weights(copy) == weights(folder)
    bad = copy / file
    bad.unlink() if file in ("state.json", "evaluations/before.json") else shutil.rmtree(bad.parent)
    told = forks(new_run("copy"))
    assert told["code"] == 0 and weights(copy) == weights(folder), told["said"]


@pytest.mark.parametrize(
    "change, shown",
    [({"seed": 6}, "seed = 6"), ({"args__max_tokens": 7}, "max_tokens = 7"), ({"train__imitate__steps": 9}, "steps = 9")],
)
def test_a_folder_of_another_run_is_refused(change, shown, new_run, whole):
    folder, _ = whole(new_run)
    before = weights(folder)
    with pytest.raises(StoreError, match="a run with other settings") as caught:
        tutelage.run({**new_run(folder.parent, **change)})
    assert shown in str(caught.value) and "another name" in str(caught.value)
    assert weights(folder) == before


def test_two_processes_run_it_to_the_same_figures(whole, new_run, tmp_path):
    folder, _ = whole(new_run)
    table = new_run("two")
    job = tmp_path / "run.json"
    job.write_text(json.dumps(table))
    port = str(31500 + os.getpid() % 2000)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run([*launch, str(WORKER), str(job)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    two = Path(table["output"]) / "tiny"
    assert fidelity(two) == pytest.approx(fidelity(folder), rel=1e-3)
    assert [r["loss"] for r in metrics(two)] == pytest.approx([r["loss"] for r in metrics(folder)], rel=1e-3)
    assert [r["positions"] for r in metrics(two)] == [r["positions"] for r in metrics(folder)]
    assert json.loads((two / "run.json").read_text())["processes"] == 2
