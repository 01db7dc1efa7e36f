"""What a test of a `Limits:` line needs: the line it is for, a recipe's Train stages, one step, and how two compare."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core import catalog
from tutelage.core.needs import stages
from tutelage.core.recipe import Train
from tutelage.core.schedule import Progress
from tutelage.data.collate import by_group
from tutelage.voices.align import foreign_slots

KIT = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
world, worst = KIT["world"], KIT["worst"]


def limit(recipe, line):
    """Says which line of which card a test is for; the lines are read off the files."""

    def mark(test):
        return test

    return mark


def trains(name, **arguments) -> list[Train]:
    """The Train stages of a recipe, repeated ones once."""
    return [s for s in stages(catalog.build(name, arguments).stages) if isinstance(s, Train)]


@pytest.fixture
def step(world):
    """Gradient and rows of one step of a stage, drawn from its own source."""
    world.ws.data["train"] = world.records
    world.ws.data["answers"] = world.records

    def take(stage, at=0, **how):
        world.pair.student.model.requires_grad_(False).eval()
        with torch.no_grad():
            size = len(by_group(world.records))  # each group once: data sets of other names come in another order
            rows = stage.source.draw(Progress("train", at, 10), world.ws.within("train", at), size)
        assert rows
        foreign = {view: world.tokenizer for view in foreign_slots(stage)}
        how = {"foreign": foreign, "views": stage.views, **how}
        grads, told = world.gradients(stage.updates[0], rows=rows, voices=stage.voices, **how)
        return grads, told, {(r.id, r.pieces[-1].ids or r.pieces[-1].content) for r in rows}

    return take


def same(one, other, tolerance=2e-6):
    """Two steps took the same rows and gave the same gradient and loss."""
    assert one[2] == other[2], "the same rows with the same answers"
    assert worst(one[0], other[0]) < tolerance
    assert one[1].loss == pytest.approx(other[1].loss, rel=1e-5)


def nonzero(taken):
    """A step without the gradients that are 0 throughout, which a term of scale 0 may leave behind."""
    grads, told, rows = taken
    return {n: g for n, g in grads.items() if float(g.abs().max()) > 0}, told, rows
