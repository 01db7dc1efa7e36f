"""Pain 41: a server's prompt log-probabilities differed from run to run, with what its prefix cache held before.

Here beginnings that rows share are read once too; what a row's tokens score does not depend on its neighbours, on the
order, or on what was asked before.
"""

import pytest
import torch

from tutelage.core.signal import Read
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.note import Note
from tutelage.signals.readouts import LogProb

SHARED = "Here is a long beginning that every one of these prompts has in common, word by word. "


@pytest.fixture
def prompts(kit):
    tails = ("one", "two and more", "", "three three three", "one")
    return [kit.chat(f"p{n}", SHARED + tail, "x") for n, tail in enumerate(tails)]


def scores(rows, note):
    return {r.id: torch.tensor(r.pieces[-1].notes[note]) for r in rows}


def test_sampled_scores_are_the_same_alone_together_reversed_and_again(ws, prompts):
    ask = Ask("student", max_tokens=8)
    together = list(ask(iter(prompts), ws))
    others = [list(ask(iter(prompts[::-1]), ws)), [r for p in prompts for r in ask(iter([p]), ws)], list(ask(iter(prompts), ws))]
    for rows in others:
        assert {r.id: r.pieces[-1].ids for r in rows} == {r.id: r.pieces[-1].ids for r in together}
        for name, value in scores(rows, "log_prob").items():
            assert torch.allclose(value, scores(together, "log_prob")[name], atol=1e-5)
    assert torch.equal(scores(others[2], "log_prob")["p0"], scores(together, "log_prob")["p0"]), "run again: bit for bit"


def test_cached_scores_are_the_same_in_any_batch(ws, prompts):
    ws.models["teacher"] = ws.models["student"]
    rows = list(Ask("student", max_tokens=8)(iter(prompts), ws))
    whole = list(Note("teacher", LogProb(Read("teacher")))(iter(rows), ws))
    single = list(Note("teacher", LogProb(Read("teacher")), batch_size=1)(iter(rows[::-1]), ws))
    for name, value in scores(whole, "teacher").items():
        assert torch.allclose(value, scores(single, "teacher")[name], atol=1e-5)
        assert torch.allclose(value, scores(whole, "log_prob")[name], atol=1e-4), "and they are the sampler's own"
