"""Pain 42: one run, two losses: 0.239 with the teacher on a server, 0.032 with it in the process, over other token counts.

Here scores written once give loss, count and gradient of the live teacher on the same rows, however the rows are split
and whatever stands around the answers.
"""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from tutelage.core.record import Piece
from tutelage.core.signal import Noted, Read
from tutelage.core.term import Term, Update
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.note import Note
from tutelage.signals.policy import ScoreFunction
from tutelage.signals.readouts import LogProb, gap

TRAINING = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
world, worst = TRAINING["world"], TRAINING["worst"]
LIVE = Update((Term("gap", ScoreFunction(gap())),), watch=(("teacher", LogProb(Read("teacher"))),))
CACHED = Update((Term("gap", ScoreFunction(Noted("teacher") - LogProb())),), watch=(("teacher", Noted("teacher")),))


@pytest.fixture
def rows(world):
    """Answers of the student, one of them inside a longer conversation, and one that the data wrote."""
    records = [replace(r, group="") for r in world.records]
    written = list(Ask("student", max_tokens=9)(iter(records), world.ws))
    late = Piece("And now?", "user")
    written[1] = replace(written[1], pieces=(*written[1].pieces, late, Piece("nothing", "assistant", trains=True)))
    return list(Note("teacher", LogProb(Read("teacher")))(iter([*written[:4], records[4]]), world.ws))


@pytest.mark.parametrize("how", [{}, {"size": 1}, {"size": 2}, {"padding": "left", "pack": False}], ids=str)
def test_loss_count_and_gradient_are_the_same(world, rows, how):
    live, told = world.gradients(LIVE, rows=rows)
    cached, again = world.gradients(CACHED, rows=rows, **how)
    assert again.loss == pytest.approx(told.loss, rel=1e-4)
    for name in ("gap", "teacher"):
        assert again.tallies[name].count == told.tallies[name].count
        assert again.tallies[name].mean == pytest.approx(told.tallies[name].mean, rel=1e-4)
    assert worst(cached, live) < 1e-5
