"""Settings that can do nothing here: each says so, and says nothing where it can."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tutelage.core.doubts import Here, doubts, here
from tutelage.core.feedback import Chase
from tutelage.core.recipe import Train
from tutelage.core.schedule import Complement, Linear
from tutelage.core.signal import Noted
from tutelage.core.term import Term, Update
from tutelage.data.deal import Dealt
from tutelage.data.gauge import Gauge, Gauged
from tutelage.data.live import Live
from tutelage.data.settled import Lows, Settled
from tutelage.data.source import Corpus
from tutelage.data.steps.ask import Ask
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match, Top
from tutelage.signals.pools import GroupNorm
from tutelage.signals.scale import GroupSoftmax
from tutelage.voices import Ema

HERE = Here(steps=20, batch_size=4, categories=99, max_tokens=64, group=4)
RIGHT = Noted("right", "rows")
PARTS = {
    "a schedule from 1 to 0 stays at 1 in 1 steps": (Linear(1.0, 0.0), replace(HERE, steps=1)),
    "stays at 1 in 20 steps": (Linear(1.0, 0.0, 0.97, 1.0), HERE),
    "moves student each 30 steps never runs in 20": (Update((Term("a", Match(kl_forward)),), every=30), HERE),
    "follows student each 21 steps stays as it starts": (Ema(every=21), HERE),
    "Top(k=99) keeps each of 99 tokens": (Top(99), HERE),
    "measured at the first alone in 20": (Gauged(Corpus("train"), Gauge.__new__(Gauge), (), every=20), HERE),
    "stay those of the data in 20": (Dealt((Corpus("a"), Corpus("b")), Chase(("a", "b")), every=20), HERE),
    "need 65 tokens, and answers have 64 at most": (Settled(Lows(0.3, 64, 8, 2), window=65, runs=1, exempt=0), HERE),
    "need 67 tokens": (Settled(Lows(0.3, 64, 8, 2), window=8, runs=3, exempt=64), replace(HERE, max_tokens=66)),
    "waits for 20 steps and 8 answers": (Settled(Lows(0.3, 64, 8, 20), window=8, runs=1, exempt=0), HERE),
    "waits for 2 steps and 320 answers, and there are 20 steps with 320 answers": (Settled(Lows(0.3, 999, 320, 2), window=8, runs=1, exempt=0), HERE),
    "what is compared in a group is 0": (GroupNorm(RIGHT), replace(HERE, group=1)),
    "weights within a group are all 1": (GroupSoftmax(RIGHT, RIGHT), replace(HERE, group=1)),
}
FINE = (
    (Linear(1.0, 0.0), replace(HERE, steps=2)),
    (Linear(1.0, 1.0), replace(HERE, steps=1)),
    (Complement(Linear(0.0, 1.0)), HERE),
    (Update((Term("a", Match(kl_forward)),), every=20), HERE),
    (Ema(every=20), HERE),
    (Top(98), HERE),
    (Top(98), replace(HERE, categories=None)),
    (Gauged(Corpus("train"), Gauge.__new__(Gauge), (), every=19), HERE),
    (Settled(Lows(0.3, 999, 319, 19), window=64, runs=1, exempt=0), HERE),
    (Settled(Lows(0.0), window=640), HERE),
    (GroupNorm(RIGHT), HERE),
    (GroupNorm(RIGHT), replace(HERE, group=None)),
)


@pytest.mark.parametrize("said", PARTS)
def test_says_what_it_cannot_do(said):
    part, at = PARTS[said]
    assert said in part.doubt(at)


@pytest.mark.parametrize("case", range(len(FINE)))
def test_says_nothing_where_it_can(case):
    part, at = FINE[case]
    assert not hasattr(part, "doubt") or part.doubt(at) == ""


def test_a_stage_tells_its_surroundings_and_each_doubt_once():
    term = Term("a", Match(kl_forward, on=Top(200)), weight=GroupNorm(RIGHT))
    stage = Train("train", Live(Ask(max_tokens=7, times=1)), (Update((term, replace(term, name="b"))),))
    at = here(stage, steps=5, batch_size=3, categories=99)
    assert at == Here(5, 3, 99, 7, 1)
    told = list(doubts(stage, at))
    assert len(told) == 2 and all(text.startswith("Stage 'train': ") for text in told)
    assert here(Train("train", Corpus("train"), stage.updates), steps=5, batch_size=3) == Here(5, 3)
