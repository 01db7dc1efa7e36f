"""A recipe that fits class means and directions, and reads them like parts; killed between, it goes on with them."""

import json
import math

import pytest

import tutelage

RECIPE = '''
"""Means."""
from tutelage.core.recipe import Change, Generate, Recipe, Train, recipe
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update
from tutelage.data.source import Corpus
from tutelage.data.steps.label import Label
from tutelage.signals.divergences import kl_forward
from tutelage.signals.lenses import Classify, Project
from tutelage.signals.match import Match, squared_error
from tutelage.surgery.fit import ClassMeans, Directions


@recipe(paper="none", family="mine", formula="scores by class means, and coordinates")
def means(*, num: int = 3) -> Recipe:
    """Means."""
    def read(who, *through):
        return Read(who, "pooled", through, over="rows")

    classes = Match(kl_forward, read("student", Classify("centres")), read("teacher", Classify("centres")))
    places = Match(squared_error, read("student", Project("axes")), read("teacher", Project("axes")))
    return Recipe((
        Generate("label", "labelled", (Label("kind", ("x", "y")),)),
        Change("centre", "centres", ClassMeans("teacher", "labelled")),
        Change("turn", "axes", Directions("teacher", "labelled", num)),
        Train("train", Corpus("labelled"), (Update((Term("classes", classes), Term("places", places))),)),
    ))
'''


@pytest.fixture
def run(new_run, tmp_path, write_jsonl):
    (tmp_path / "means.py").write_text(RECIPE)
    rows = [{"prompt": f"Say {i}", "completion": "one two three"[: 3 + i], "kind": "xy"[i % 2]} for i in range(8)]
    made = new_run(recipe=str(tmp_path / "means.py"), args={}, train={"steps": 6, "batch_size": 4, "max_length": 96, "pack": False, "learning_rate": 3e-3})
    made["data"]["train"] = {"path": str(write_jsonl(tmp_path / "kinds.jsonl", rows)), "chat": True}
    return made


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_fits_are_made_kept_and_read(run):
    done = tutelage.run(run)
    found = losses(done.folder)
    assert all(math.isfinite(x) and x > 0 for x in found) and found[-1] < found[0]
    assert {f.parent.name for f in done.folder.glob("slots/*/fitted.safetensors")} == {"centre", "turn"}
    assert not list(done.student.glob("*fitted*"))
    again = tutelage.run({**run, "name": "again"})
    assert losses(again.folder) == found
