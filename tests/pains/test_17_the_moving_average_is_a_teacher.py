"""Pain 17: the rate of a moving average was inverted, so the teacher became a copy of the student; a default was 0.6
where every document said 0.01; and a setting that was to take the teacher's text was ignored.
"""

import copy

import pytest
import torch

from tutelage.core.context import Context
from tutelage.core.errors import SettingError
from tutelage.core.record import Piece, Record
from tutelage.core.schedule import Progress
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.data.steps.ask import Ask
from tutelage.voices.itself import Ema, snapshot

NEXT = frozenset({"next"})


def said(voice, pair, tmp_path):
    ws = Workspace(tmp_path)
    ws.models.update(student=pair.student, teacher=pair.teacher)
    record = Record("a", (Piece("ask", "user"), Piece("answer", "assistant", trains=True)))
    batch = Collate(pair.tokenizer, 64)([record])
    ctx = Context(batch, {"slow": voice}, {"slow": NEXT}, frozenset({"student"}), ws)
    return ctx.say("slow")["next"]


def moved(pair, by=1.0):
    with torch.no_grad():
        for p in pair.student.model.parameters():
            p += by


@pytest.mark.parametrize("rate", [0.01, 0.25, 1.0])
def test_the_rate_is_the_share_of_the_live_weights(rate, tiny_pair, tmp_path):
    start = copy.deepcopy(tiny_pair.student.model.state_dict())
    voice = Ema("student", rate)
    said(voice, tiny_pair, tmp_path)
    shadow = voice.shadow.weights
    want = {k: v.clone() for k, v in shadow.items()}
    for step in range(3):
        moved(tiny_pair)
        live = tiny_pair.student.model.state_dict()
        voice.shadow.observe(Progress("t", step, 3), {})
        want = {k: (1 - rate) * v + rate * live[k] for k, v in want.items()}
    assert all(torch.allclose(shadow[k], want[k], atol=1e-5) for k in shadow)
    far = {k: float((shadow[k] - start[k]).abs().mean()) for k in shadow}
    assert all(f == pytest.approx({0.01: 0.0596, 0.25: 1.265625, 1.0: 3.0}[rate], rel=0.01) for f in far.values())


def test_the_default_follows_over_about_a_hundred_steps(tiny_pair, tmp_path):
    voice = Ema()
    assert voice.rate == 0.01 and voice.every == 1
    said(voice, tiny_pair, tmp_path)
    start = {k: v.clone() for k, v in voice.shadow.weights.items()}
    moved(tiny_pair)
    for step in range(100):
        voice.shadow.observe(Progress("t", step, 100), {})
    share = {float((v - start[k]).mean()) for k, v in voice.shadow.weights.items()}
    assert all(s == pytest.approx(1 - 0.99**100, abs=1e-3) for s in share)


def test_what_it_says_is_the_average_and_not_the_student(tiny_pair, tmp_path):
    voice = Ema("student", 0.01)
    before = said(voice, tiny_pair, tmp_path).at(slice(None))
    moved(tiny_pair, 0.1)
    after = said(voice, tiny_pair, tmp_path).at(slice(None))
    assert torch.equal(before, after), "nothing was observed yet"
    assert not any(p.requires_grad for p in voice.shadow.model.model.parameters())
    assert not torch.equal(said(Ema(), tiny_pair, tmp_path).at(slice(None)), after)


def test_a_snapshot_is_a_copy_at_its_steps_only(tiny_pair, tmp_path):
    voice = snapshot(every=2)
    said(voice, tiny_pair, tmp_path)
    start = {k: v.clone() for k, v in voice.shadow.weights.items()}
    moved(tiny_pair)
    voice.shadow.observe(Progress("t", 0, 4), {})
    assert all(torch.equal(v, start[k]) for k, v in voice.shadow.weights.items())
    voice.shadow.observe(Progress("t", 1, 4), {})
    live = tiny_pair.student.model.state_dict()
    assert all(torch.equal(v, live[k]) for k, v in voice.shadow.weights.items())


@pytest.mark.parametrize("rate", [0, -0.1, 1.1])
def test_rates_outside_the_range_are_refused_with_the_direction(rate):
    with pytest.raises(SettingError, match=r"share of the live weights.*0\.99 would copy"):
        Ema(rate=rate)


def test_who_is_asked_is_who_writes(tiny_pair, tmp_path):
    ws = Workspace(tmp_path, 1)
    ws.models.update(student=tiny_pair.student, teacher=tiny_pair.teacher)
    record = Record("a", (Piece("ask", "user"),))
    answers = {}
    for who in ("teacher", "student"):
        (row,) = Ask(who, max_tokens=12, temperature=0)(iter([record]), ws)
        answers[who] = row.pieces[-1].ids
        assert row.pieces[-1].author == who and ws.ledger.get(who, "sample").calls == 1
    assert answers["teacher"] != answers["student"]
