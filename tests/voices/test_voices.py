"""Voices: what a model says of a view, pools of several, and models as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core.context import Context
from tutelage.core.errors import NeedError, SettingError, UnknownName
from tutelage.core.record import Piece, Record
from tutelage.core.schedule import Linear, Progress
from tutelage.core.scores import Dense
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.voices import Blend, Ema, Says, snapshot
from tutelage.voices.blend import Mixed

NEXT = frozenset({"next"})
RECORDS = [
    Record("a", (Piece("ask", "user"), Piece("an answer", "assistant", trains=True))),
    Record("b", (Piece("why", "user"), Piece("so", "assistant", trains=True))),
]


@pytest.fixture
def speak(tiny_pair, tmp_path):
    ws = Workspace(tmp_path)
    ws.models.update(student=tiny_pair.student, teacher=tiny_pair.teacher)
    views = {"hinted": lambda r: Record(r.id, (Piece("hint", "user"), *r.pieces))}
    batch = Collate(tiny_pair.tokenizer, 64, views)(RECORDS)

    def say(progress=None, wants=NEXT, moves=frozenset(), **voices):
        every = {"student": Says("student"), "teacher": Says("teacher"), **voices}
        return Context(batch, every, {name: wants for name in voices} | {n: NEXT for n in ("student", "teacher")}, moves, ws, progress)

    say.ws, say.batch, say.pair = ws, batch, tiny_pair
    return say


def probs(scores):
    return scores.at(slice(None)).double().exp()


def test_says_reads_its_view_and_pays(speak):
    ctx = speak(hinted=Says("student", "hinted"))
    plain, hinted = ctx.say("student")["next"], ctx.say("hinted")["next"]
    assert len(plain) == len(hinted) == len(speak.batch.units["tokens"])
    assert not torch.allclose(probs(plain), probs(hinted), atol=1e-3)
    with torch.no_grad():
        view = speak.batch.views["hinted"]
        logits = speak.pair.student.model(**view.inputs).logits.flatten(0, 1)[view.at]
    assert torch.allclose(probs(hinted), logits.double().softmax(-1), atol=1e-5)
    assert speak.ws.ledger.get("student", "predict").calls == 2
    with pytest.raises(UnknownName, match=r"'hintd'.*'hinted'"):
        speak(x=Says("student", "hintd")).say("x")


def test_a_graph_is_kept_only_for_what_moves(speak):
    ctx = speak(moves=frozenset({"student"}))
    assert ctx.say("student")["next"].hidden.requires_grad and not ctx.say("teacher")["next"].hidden.requires_grad


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), share=st.floats(0, 1), geometric=st.booleans())
def test_mixed_scores_are_distributions(seed, share, geometric):
    g = torch.Generator().manual_seed(seed)
    a, b = ((torch.randn(5, 9, generator=g, dtype=torch.float64) * 3).log_softmax(-1) for _ in range(2))
    mixed = Mixed((Dense(a), Dense(b)), (share, 1 - share), geometric)
    got = mixed.at(slice(None)).exp()
    want = share * a.exp() + (1 - share) * b.exp()
    if geometric:
        want = (a.exp() ** share) * (b.exp() ** (1 - share))
        want = want / want.sum(-1, keepdim=True)
    assert torch.allclose(got, want, atol=1e-12) and torch.allclose(got.sum(-1), torch.ones(5, dtype=torch.float64))
    assert torch.equal(mixed.held(torch.tensor([1, 3])).at(slice(None)).exp(), got[[1, 3]])


def test_blend_of_voices(speak):
    ctx = speak(pool=Blend(("teacher", "student"), (0.25, 0.75)))
    want = 0.25 * probs(ctx.say("teacher")["next"]) + 0.75 * probs(ctx.say("student")["next"])
    assert torch.allclose(probs(ctx.say("pool")["next"]), want, atol=1e-6)
    assert len(ctx.say("pool")["next"].leaves()) == 2 and speak.ws.ledger.get("student", "predict").calls == 1


def test_scheduled_shares_follow_the_progress_and_are_made_to_add_up(speak):
    blend = Blend(("teacher", "student"), (Linear(1, 0), Linear(0, 1)))
    for step, share in ((0, 1.0), (5, 0.5), (10, 0.0)):
        ctx = speak(Progress("t", step, 10), pool=blend)
        want = share * probs(ctx.say("teacher")["next"]) + (1 - share) * probs(ctx.say("student")["next"])
        assert torch.allclose(probs(ctx.say("pool")["next"]), want, atol=1e-6)


@pytest.mark.parametrize("shares", [(0.5,), (0.5, 0.6), (1.5, -0.5)])
def test_blend_refuses_shares(shares):
    with pytest.raises(SettingError, match="adding up to 1"):
        Blend(("a", "b"), shares)


def test_blend_refuses_features_and_other_vocabularies(speak, new_causal):
    with pytest.raises(NeedError, match="no common axis"):
        speak(wants=frozenset({"hidden.1"}), pool=Blend(("teacher", "student"), (0.5, 0.5))).say("pool")
    speak.ws.models["other"] = new_causal("other", vocab_size=300)
    with pytest.raises(NeedError, match="one tokenizer"):
        speak(other=Says("other"), pool=Blend(("teacher", "other"), (0.5, 0.5))).say("pool")


def test_an_average_is_saved_and_comes_back(speak):
    voice = Ema("student", 0.3)
    speak(slow=voice).say("slow")
    with torch.no_grad():
        for p in speak.pair.student.model.parameters():
            p += torch.randn_like(p)
    voice.shadow.observe(Progress("t", 0, 2), {})
    saved = copy.deepcopy(voice.shadow.state_dict())
    other = Ema("student", 0.3)
    other.shadow.load_state_dict(saved)
    one, two = (speak(slow=v).say("slow")["next"] for v in (voice, other))
    assert torch.equal(one.at(slice(None)), two.at(slice(None)))
    for v in (voice, other):
        v.shadow.observe(Progress("t", 1, 2), {})
    assert all(torch.equal(v, other.shadow.weights[k]) for k, v in voice.shadow.weights.items())
    voice.shadow.reset()
    assert voice.shadow.state_dict() == {}


def test_a_snapshot_of_every_step_is_the_model_before_it(speak):
    voice = snapshot(every=1)
    before = speak(old=voice).say("old")["next"].at(slice(None))
    with torch.no_grad():
        speak.pair.student.model.model.norm.weight *= 2
    assert torch.equal(speak(old=voice).say("old")["next"].at(slice(None)), before)
    voice.shadow.observe(Progress("t", 0, 2), {})
    ctx = speak(old=voice)
    assert torch.equal(ctx.say("old")["next"].at(slice(None)), ctx.say("student")["next"].at(slice(None)))


def test_voices_are_values():
    assert Says("a") == Says("a") and Blend(("a", "b"), (0.5, 0.5)) == Blend(("a", "b"), (0.5, 0.5))
    assert Ema() != Ema(), "each remembers something of its own"
