"""What tests of recipes across tokenizers share: a byte-level student and a BPE teacher, a step, and whole runs of them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from tutelage.core.context import Context
from tutelage.core.schedule import Progress
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.models.export import export
from tutelage.training.step import Plan, run_update
from tutelage.voices.says import Says

KIT = runpy.run_path(str(Path(__file__).parents[1] / "voices" / "kit.py"))
RUN = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
ROWS = runpy.run_path(str(Path(__file__).parents[1] / "data" / "test_foreign.py"))["ROWS"]
data_folder, teacher_folder, new_run = RUN["data_folder"], RUN["teacher_folder"], RUN["new_run"]


@pytest.fixture(scope="module")
def pair():
    """A byte-level student and a BPE teacher."""
    return {"student": KIT["causal"]("student", KIT["byte_tokenizer"](), seed=2), "teacher": KIT["causal"]("teacher", KIT["bpe_tokenizer"](), seed=1, hidden_size=48)}


@pytest.fixture
def world(tmp_path):
    def make(models, made, size=99, rows=ROWS, pack=False):
        """Gradients and outcome of one step of a recipe's stage, and the context of its first micro-batch."""
        ws = Workspace(tmp_path, 3)
        ws.models.update(models)
        for model in models.values():
            model.model.requires_grad_(False).eval()
        student = models["student"].model.requires_grad_(True)
        student.zero_grad()
        collate = Collate(models["student"].tokenizer, 256, pack=pack, foreign={"teacher": models["teacher"].tokenizer})
        voices = {slot: Says(slot) for slot in models} | dict(made.voices)
        plan = Plan.of(made.updates[0], voices)
        batches = [collate(part) for part in split(rows, size)]
        outcome = run_update(
            plan, batches, ws, Progress("train", 0, 10), backward=lambda v: v.backward(), reduce=lambda t: t, inside=lambda f: f()
        )
        grads = {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}
        context = Context(batches[0], voices, {}, frozenset({"student"}), ws, Progress())
        return grads, outcome, context

    return make


def worst(a, b):
    scale = max(float(x.abs().max()) for x in b.values())
    return max(float((a[n] - b[n]).abs().max()) for n in b) / scale


@pytest.fixture(scope="module")
def folders(pair, tmp_path_factory):
    home = tmp_path_factory.mktemp("pair")
    for name, model in pair.items():
        export(model, home / name, card={"licence": "mit"})
    return {name: str(home / name) for name in pair}


@pytest.fixture
def table(new_run, folders):
    def make(recipe, **changes):
        settings = {"steps": 3, "batch_size": 4, "micro_batch_size": 2, "max_length": 160, "learning_rate": 3e-3}
        return new_run(**{"recipe": recipe, "args": {}, "models": folders, "train": settings, **changes})

    return make


def rows(folder):
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
