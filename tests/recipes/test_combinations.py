"""Methods that act on different axes combine: every example of the docs page runs, and does what its text says."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import pytest

import tutelage
from tutelage.core import catalog
from tutelage.core.errors import NeedError, SettingError, TutelageError
from tutelage.core.term import Update

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst = KIT["world"], KIT["worst"]
teacher_folder, data_folder, new_run = (KIT[n] for n in ("teacher_folder", "data_folder", "new_run"))
HOME = Path(__file__).parents[2] / "docs" / "howto"
FILES = sorted((HOME / "combine").glob("*.py"))
ARGUMENTS = {"scored_once": {"verifier": "exact", "rollouts": 2}}


def built(name, **arguments):
    return catalog.build(str(HOME / "combine" / f"{name}.py"), arguments)


def test_every_example_stands_on_the_page():
    page = (HOME / "combine.md").read_text()
    assert FILES and all(f'--8<-- "howto/combine/{f.name}"' in page for f in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_it_runs_from_data_to_student(file, new_run, data_folder):
    short = {"max_tokens": 4} if "max_tokens" in catalog.parameters(catalog.find(str(file))) else {}
    table = new_run(recipe=str(file), args={**short, **ARGUMENTS.get(file.stem, {})}, train={"steps": 2, "batch_size": 2, "max_length": 256})
    if file.stem == "two_teachers":
        whole = Path(table["data"]["train"]["path"])
        rows = [json.loads(x) for x in whole.read_text().splitlines()]
        tagged = data_folder / "tagged.jsonl"
        tagged.write_text("".join(json.dumps({**r, "domain": ("maths", "other")[i % 2]}) + "\n" for i, r in enumerate(rows)))
        table["data"] = {**table["data"], "train": {**table["data"]["train"], "path": str(tagged)}}
    done = tutelage.run(table)
    told = [json.loads(x) for x in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(r["loss"]) and 0 < r["grad_norm"] < 1e3 for r in told) and done.student.exists()


def test_the_choice_of_tokens_keeps_its_share_and_the_divergence_is_ones_own(world):
    update = built("chosen_tokens", share=0.2).stages[0].updates[0]
    _, told = world.gradients(update)
    _, whole = world.gradients(built("chosen_tokens", share=1.0).stages[0].updates[0])
    assert told.tallies["jensen"].count == math.floor(0.2 * whole.tallies["jensen"].count)
    assert update.objective[0].loss.compare.beta == 0.5


def test_a_moving_target_that_has_arrived_is_on_policy_distillation(world):
    made, plain = built("moving_target", start=1.0).stages[0], catalog.build("opd").stages[0]
    got, _ = world.gradients(made.updates[0], voices=made.voices)
    want, _ = world.gradients(plain.updates[0])
    assert worst(got, want) < 2e-6


def test_an_answer_that_is_not_cut_has_the_plain_policy_gradient(world):
    from tutelage.core.term import Term
    from tutelage.signals.policy import ScoreFunction
    from tutelage.signals.readouts import gap

    got, _ = world.gradients(built("stopped_early").stages[0].updates[0])
    want, _ = world.gradients(Update((Term("policy", ScoreFunction(gap())),)))
    assert worst(got, want) < 1e-6


def test_scored_once_asks_no_teacher_while_it_trains():
    from tutelage.core.needs import needs
    from tutelage.core.recipe import Recipe

    made = built("scored_once")
    assert "teacher" in needs(made) and "teacher" not in needs(Recipe(made.stages[1:]))


def test_even_weights_of_chunks_are_alm_without_merging(world):
    made, alm = built("unsure_chunks").stages[0], catalog.build("alm", {"merge_above": 0.0}).stages[0]
    how = {"foreign": {"teacher": world.tokenizer}}
    from dataclasses import replace

    from tutelage.core.signal import uniform
    from tutelage.core.term import per_token

    term = replace(made.updates[0].objective[0], weight=uniform, per=per_token)
    got, _ = world.gradients(Update((term,)), voices=made.voices, **how)
    want, _ = world.gradients(alm.updates[0], voices=alm.voices, **how)
    assert worst(got, want) < 2e-6
    assert worst(world.gradients(made.updates[0], voices=made.voices, **how)[0], want) > 1e-3


def test_what_makes_no_sense_is_refused_with_its_reason(world):
    """A temperature over a top k, a mean that nothing measures, views of another answer: before anything trains."""
    from dataclasses import replace

    from tutelage.core.feedback import Climb
    from tutelage.core.recipe import Train
    from tutelage.core.signal import Read
    from tutelage.core.term import Term
    from tutelage.data.source import Corpus
    from tutelage.signals.divergences import Tempered, kl_forward
    from tutelage.signals.match import Match, Targets, Top
    from tutelage.signals.pools import GroupNorm, RowMean
    from tutelage.signals.readouts import LogProb
    from tutelage.voices.blend import Blend

    with pytest.raises(SettingError, match="every category"):
        Match(Tempered(kl_forward, 2.0), on=Top(5))
    share = Climb("entropy")
    with pytest.raises(TutelageError, match="entropy"):
        Train("t", Corpus("train"), (Update((Term("labels", Targets(), scale=share),)),))
    with pytest.raises(SettingError, match="one unit list"):
        Match(kl_forward, Read("student"), Read("teacher", over="teacher"))
    with pytest.raises(SettingError, match="adding up to 1"):
        Blend(("student", "teacher"), (0.5, 0.7))
    with pytest.raises(NeedError, match="groups"):
        ctx = KIT["context"](world, world.records)
        ctx.batch = replace(ctx.batch, group=None)
        ctx(GroupNorm(RowMean(LogProb())))
