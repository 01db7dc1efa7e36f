"""The dry run: what cannot work is refused before weights load, and the figures are those of the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tutelage
from tutelage.core.errors import NeedError, StoreError, TutelageError, UnknownName
from tutelage.models.cost import cost


@pytest.fixture
def broken_teacher(teacher_folder, tmp_path) -> Path:
    """A teacher whose weights file is a lie."""
    shutil.copytree(teacher_folder, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"not weights")
    return tmp_path / "broken"


@pytest.mark.parametrize(
    "changes, error, shown",
    [
        ({"args": {"max_token": 6}}, UnknownName, "max_tokens"),
        ({"args": {"max_tokens": 0}}, TutelageError, "max_tokens"),
        ({"recipe": "strong_to_weal"}, UnknownName, "strong_to_weak"),
        ({"train": {"imitat": {"steps": 2}}}, UnknownName, "imitate"),
        ({"models": {"student": {"shrink": {"layers": 2}}}}, NeedError, "teacher"),
        ({"data": {"held_out": "held.jsonl"}}, TutelageError, "train"),
    ],
)
def test_what_cannot_work_is_refused_before_weights_load(changes, error, shown, new_run, broken_teacher):
    table = {**new_run(models__teacher=str(broken_teacher)), **changes}
    for refuse in (tutelage.run, lambda t: tutelage.plan(tutelage.RunFile(**t))):
        with pytest.raises(error, match=shown):
            refuse(table)
    assert not Path(table["output"]).exists()


def test_broken_weights_are_told_as_such_once_they_load(new_run, broken_teacher):
    table = new_run(models__teacher=str(broken_teacher))
    untimed = tutelage.plan(tutelage.RunFile(**table), timed=False)
    assert untimed.stages
    with pytest.raises(StoreError, match="missing or corrupt"):
        tutelage.plan(tutelage.RunFile(**table))


def test_a_broken_configuration_is_told(new_run, broken_teacher):
    (broken_teacher / "config.json").write_text("{")
    with pytest.raises(TutelageError, match="broken"):
        tutelage.plan(tutelage.RunFile(**new_run(models__teacher=str(broken_teacher))), timed=False)


def test_untimed(new_run, new_causal):
    run = tutelage.RunFile(**new_run())
    plan = tutelage.plan(run, timed=False)
    assert plan.records == {"train": 12, "held_out": 4}
    assert [(s.name, s.steps, s.seconds) for s in plan.stages] == [("write", 1, None), ("imitate", 4, None), ("correct", 3, None)]
    assert all(v > 0 for v in (*plan.memory.values(), *plan.disk.values()))
    teacher, student = new_causal(), new_causal(num_hidden_layers=2)
    assert plan.memory["weights of teacher"] == 4 * teacher.num_parameters == cost(teacher.config).weight_bytes()
    assert plan.memory["weights of student"] == 4 * student.num_parameters
    assert plan.disk["student"] == 4 * student.num_parameters
    made = plan.to_dict()
    assert made["total"]["memory"] == sum(plan.memory.values()) and made["stages"][0]["name"] == "write"
    assert plan.loads["teacher"] == run.models["teacher"].load and plan.loads["student"] == "2 blocks of teacher"


def test_what_training_holds(new_run, new_causal):
    run = tutelage.RunFile(**new_run(recipe="forward_kl", args={}, train={"batch_size": 4, "micro_batch_size": 2, "max_length": 96}))
    plan, student = tutelage.plan(run, timed=False), new_causal(num_hidden_layers=2)
    assert plan.memory["optimiser of student"] == 2 * plan.memory["gradients of student"] == 8 * student.num_parameters
    assert plan.memory["activations"] > 0


def test_timed(new_run):
    table = new_run()
    plan = tutelage.plan(tutelage.RunFile(**table))
    assert [s.name for s in plan.stages] == ["load", "write", "imitate", "correct", "measure", "finish"]
    assert all(0 < s.seconds < 600 for s in plan.stages), plan.stages
    assert 0 < plan.stages[1].tokens <= 12 * 6
    # a step reads 4 rows of at most 96 tokens
    assert all(0 < s.tokens <= s.steps * 4 * 96 for s in plan.stages[2:4])
    assert not Path(table["output"]).exists(), "a plan leaves nothing behind"


def test_the_plan_of_tokens_is_what_the_run_reads(new_run):
    table = new_run(train__imitate={"steps": 3}, train__correct={"steps": 3})
    plan = tutelage.plan(tutelage.RunFile(**table))
    folder = tutelage.run(table).folder
    import json

    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    read = sum(r["tokens"] for r in rows if r["stage"] == "imitate")
    assert plan.stages[2].tokens == pytest.approx(read, rel=0.02)


def test_held_out_rows_that_are_trained_on_are_named(new_run, data_folder):
    table = new_run(data__held_out={"path": str(data_folder / "train.jsonl"), "chat": True})
    plan = tutelage.plan(tutelage.RunFile(**table), timed=False)
    assert any("12 of 12 records of 'held_out' are also in 'train'" in n for n in plan.notes)


def test_a_student_is_cut_out_of_a_loaded_model(new_run):
    models = {
        "teacher": new_run()["models"]["teacher"],
        "half": {"shrink": {"layers": 2}},
        "student": {"shrink": {"source": "half", "layers": 1}},
    }
    with pytest.raises(TutelageError, match="half"):
        tutelage.plan(tutelage.RunFile(**new_run(models=models)), timed=False)


@pytest.mark.parametrize("layers", [9, [0, 9]])
def test_more_blocks_than_there_are(layers, new_run):
    with pytest.raises(TutelageError, match="9"):
        tutelage.run(new_run(models__student={"shrink": {"layers": layers}}))
