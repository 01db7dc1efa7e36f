"""Every recipe runs from data to student, and its objective falls where its data stays the same."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import pytest

import tutelage
from tutelage.core import catalog
from tutelage.core.needs import stages

KIT = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
teacher_folder, data_folder, new_run = KIT["teacher_folder"], KIT["data_folder"], KIT["new_run"]


@pytest.fixture
def table(new_run):
    def make(name, **train):
        arguments = {"max_tokens": 6} if "max_tokens" in catalog.parameters(catalog.find(name)) else {}
        if "verifier" in catalog.parameters(catalog.find(name)):
            arguments["verifier"] = "exact"  # the answers here are words
        if name == "rlad_trrd":  # moved by rewards alone: some answers must end by themselves, and some of those be right
            arguments |= {"verifier": str(Path(__file__).parents[2] / "tools" / "even.py"), "max_tokens": 60}
        if name == "distilling_step_by_step":
            arguments |= {"rationales": "data", "cue": " "}  # a random teacher writes no cue: the last word is the label
        if name == "kepo":
            arguments["tau"] = 0.0  # no answer of a random student is right: all pass the gate
        if "layers" in catalog.parameters(catalog.find(name)):
            arguments["layers"] = 2  # the student has two blocks
        settings = {"steps": 2, "batch_size": 4, "micro_batch_size": 2, "max_length": 256, "learning_rate": 3e-3, **train}
        if name in ("tgeo_kd", "trg"):
            settings["micro_batch_size"] = settings["batch_size"]  # their terms relate the whole batch
        return new_run(recipe=name, args=arguments, train=settings)

    return make


def rows(folder):
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", catalog.names())
def test_two_steps_from_data_to_student(name, table):
    done = tutelage.run(table(name))
    card = catalog.card(catalog.find(name))
    least = -math.inf if card.axes["gradient"] == "policy" else 0  # the value of a policy gradient means nothing
    assert all(math.isfinite(r["loss"]) and r["loss"] > least and 0 < r["grad_norm"] < 1e3 for r in rows(done.folder))
    after = done.evaluation["after"]["fidelity"]["kl"]
    assert math.isfinite(after) and after != done.evaluation["before"]["fidelity"]["kl"]
    assert (done.student / "model.safetensors").exists()
    terms = {t.name for s in stages(catalog.build(name).stages) for u in getattr(s, "updates", ()) for t in u.objective}
    assert terms & rows(done.folder)[0].keys()


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen", "supervised", "seqkd"])
def test_the_loss_falls_on_the_same_rows(name, table):
    """All 12 rows each step, so the losses are of one and the same data."""
    losses = [r["loss"] for r in rows(tutelage.run(table(name, steps=12, batch_size=12, micro_batch_size=12)).folder)]
    assert losses[-1] < 0.9 * losses[0]


def test_own_recipe_in_a_file(table, tmp_path):
    file = tmp_path / "halves.py"
    file.write_text(
        '"""Halves."""\nfrom tutelage.core.recipe import Recipe, recipe\nfrom tutelage.core.term import Term\n'
        "from tutelage.recipes import base\nfrom tutelage.signals.divergences import kl_forward, kl_reverse\n"
        "from tutelage.signals.match import Match\n\n"
        '@recipe(paper="none", family="mine", formula="half of each KL")\ndef halves(*, share: float = 0.5) -> Recipe:\n'
        '    """Both directions."""\n'
        '    return base.offline(Term("forward", Match(kl_forward), scale=share), Term("reverse", Match(kl_reverse), scale=1 - share))\n'
    )
    run = {**table("forward_kl"), "recipe": str(file), "args": {"share": 0.25}}
    for row in rows(tutelage.run(run).folder):
        assert row["loss"] == pytest.approx(0.25 * row["forward"] + 0.75 * row["reverse"], rel=1e-6)
