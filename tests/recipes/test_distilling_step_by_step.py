"""The checks of the card: two tasks on one set of weights, each with its own denominator."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core import catalog
from tutelage.core.errors import SettingError
from tutelage.core.recipe import Generate, Train
from tutelage.core.record import Piece, Record
from tutelage.core.term import Term, Update
from tutelage.data.pipeline import run_steps
from tutelage.signals.match import Targets

KIT = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
world, worst = KIT["world"], KIT["worst"]
EXAMPLES = [("a", "two and two", "2+2 is 4", "four"), ("b", "three and one, please", "3+1 = 4, so", "four"), ("c", "one", "it is", "one")]


def data(examples=EXAMPLES):
    return [
        Record(n, (Piece(x, "user"), Piece(f"{r} #### {y}", "assistant", part="answer", trains=True)))
        for n, x, r, y in examples
    ]


def built(**arguments):
    write, train = catalog.build("distilling_step_by_step", {"rationales": "data", **arguments}).stages
    assert isinstance(write, Generate) and isinstance(train, Train)
    return write, train.updates[0]


def rows_of(world, examples=EXAMPLES, **arguments):
    write, _ = built(**arguments)
    return list(run_steps(write.steps, data(examples), world.ws))


def gradients(world, rows=None, **arguments):
    return world.gradients(built(**arguments)[1], rows=rows if rows is not None else rows_of(world))


@pytest.mark.parametrize("alpha, note", [(1.0, "label"), (0.0, "rationale")])
def test_at_alpha_1_and_0_it_is_the_single_task_and_the_other_task_has_no_influence(world, alpha, note):
    rows = rows_of(world)
    got, _ = gradients(world, rows, alpha=alpha)
    alone, _ = world.gradients(Update((Term("ce", Targets()),)), rows=[r for r in rows if r.notes[note]])
    assert worst(got, alone) < 2e-6
    other = [(n, x, "something else" if alpha else r, y if alpha else "zzz") for n, x, r, y in EXAMPLES]
    again, _ = gradients(world, rows_of(world, other), alpha=alpha)
    assert worst(again, got) < 2e-6


def test_a_long_rationale_does_not_change_the_label_loss(world):
    _, told = gradients(world)
    _, long = gradients(world, rows_of(world, [EXAMPLES[0][:2] + ("very " * 15, "four"), *EXAMPLES[1:]]))
    assert long.tallies["label"].mean == pytest.approx(told.tallies["label"].mean, rel=1e-6)
    assert long.tallies["rationale"].mean != pytest.approx(told.tallies["rationale"].mean, rel=1e-3)


def test_each_term_is_a_mean_over_its_own_tokens(world):
    """Not over rows, and not over the tokens of both tasks."""
    rows = rows_of(world)
    _, told = gradients(world, rows)
    for note in ("label", "rationale"):
        _, alone = world.gradients(Update((Term("ce", Targets()),)), rows=[r for r in rows if r.notes[note]])
        assert told.tallies[note].mean == pytest.approx(alone.tallies["ce"].mean, rel=1e-5)
    assert told.loss == pytest.approx(0.5 * told.tallies["label"].mean + 0.5 * told.tallies["rationale"].mean, rel=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_change_nothing(world, size):
    want, told = gradients(world)
    got, same = world.gradients(built()[1], rows=rows_of(world), size=size)
    assert worst(got, want) < 2e-6 and same.loss == pytest.approx(told.loss, rel=1e-5)


def test_at_work_only_the_label_prompt_is_read(world):
    """The recipe says how it is asked: the prefix is there, the rationale is not."""
    recipe = catalog.build("distilling_step_by_step", {})
    row = data()[0]
    asked = recipe.asked(replace(row, fields={}))
    assert [p.content for p in asked.pieces if not p.trains] == ["predict: two and two"]
    assert "2+2" not in "".join(p.content for p in asked.without_answer().pieces)


def test_the_teacher_reads_demonstrations_and_the_student_does_not(world, monkeypatch):
    """The teacher's answer is parsed; a row's own solution is never among its demonstrations."""
    said = []

    def write(model, prompts, settings, seeds, places=None):
        from tutelage.models.sample import Sample

        said.extend(model.tokenizer.decode(p) for p in prompts)
        ids = model.tokenizer("hm #### nine", add_special_tokens=False)["input_ids"]
        return [Sample(tuple(ids), (-1.0,) * len(ids), (-1.0,) * len(ids), "length") for _ in prompts]

    monkeypatch.setattr("tutelage.data.steps.ask.sample", write)
    world.ws.data["train"] = data()
    generate, _ = catalog.build("distilling_step_by_step", {"labels": "data"}).stages
    rows = list(run_steps(generate.steps, data(), world.ws))
    assert [r.pieces[-1].content for r in rows[:2]] == ["four", "hm"]
    assert "2+2 is 4" not in said[0] and "3+1 = 4" in said[0] and "3+1 = 4" not in said[1]
    assert all("#### " not in r.pieces[0].content for r in rows)
    generate, _ = catalog.build("distilling_step_by_step", {"labels": "teacher"}).stages
    assert next(run_steps(generate.steps, data(), world.ws)).pieces[-1].content == "nine"


@pytest.mark.parametrize("arguments", [{"alpha": 1.5}, {"labels": "gold"}, {"rationales": "student"}])
def test_bad_arguments(arguments):
    with pytest.raises(SettingError, match=next(iter(arguments))):
        catalog.build("distilling_step_by_step", arguments)


def test_gradients_are_finite_where_a_batch_has_no_rationale(world):
    rows = [r for r in rows_of(world) if r.notes["label"]]
    got, told = gradients(world, rows)
    assert all(bool(torch.isfinite(g).all()) for g in got.values()) and told.loss > 0
