"""Pain 46: "let me store top-k once" is asked for in six projects and absent in all of them.

Here it is a folder in the run file: any recipe that reads a teacher's most probable tokens runs from it, unchanged, and
the teacher is not asked again, whatever the batches, the grid or the number of epochs.
"""

import runpy
from pathlib import Path

import pytest

from tutelage.core.term import Term, Update
from tutelage.data.cached import Cache, Exact, Top
from tutelage.signals.divergences import Jensen, kl_forward, kl_reverse
from tutelage.signals.match import Match
from tutelage.signals.match import Top as OnTop
from tutelage.voices.cached import Cached
from tutelage.voices.says import Says

TRAINING = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
world, worst = TRAINING["world"], TRAINING["worst"]


@pytest.mark.parametrize("compare", [kl_forward, kl_reverse, Jensen(0.5)], ids=["forward", "reverse", "jensen"])
@pytest.mark.parametrize("rest", ["tail", "renormalise"])
def test_every_objective_on_top_k_trains_from_what_was_stored_once(world, tmp_path, compare, rest):
    update = Update((Term("loss", Match(compare, on=OnTop(8, rest=rest))),))
    live, told = world.gradients(update)
    size = world.pair.teacher.head.num_categories
    for name, form, room in (("exact", Exact(8, size), 2e-5), ("coded", Top(8, size, 0.02, 0.01), 0.02)):
        voices = {"teacher": Cached(Says("teacher"), Cache(tmp_path / name, {"weights": "w"}, form))}
        world.gradients(update, voices=voices)
        ask, world.pair.teacher.predict = world.pair.teacher.predict, None  # from now on nobody can be asked
        for how in ({"size": 1}, {"size": 2, "padding": "left"}, {"pack": True}):
            cached, again = world.gradients(update, voices=voices, **how)
            assert worst(cached, live) < room and again.loss == pytest.approx(told.loss, rel=room)
        world.pair.teacher.predict = ask
