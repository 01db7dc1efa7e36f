"""Small words of the core: schedules, memories, seeds, the ledger and the workspace."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core.errors import SettingError, UnknownName
from tutelage.core.ledger import Ledger
from tutelage.core.schedule import Linear, Memory, Progress, Warmup, memories, value_at, walk
from tutelage.core.seeds import derive, generator
from tutelage.core.workspace import Workspace


@settings(deadline=None, max_examples=40)
@given(step=st.integers(0, 100), start=st.floats(-5, 5), end=st.floats(-5, 5))
def test_linear(step, start, end):
    value = Linear(start, end, 0.2, 0.7)(Progress("t", step, 100))
    s = min(1, max(0, (step / 100 - 0.2) / 0.5))
    assert value == pytest.approx(start + (end - start) * s, abs=1e-12)


@pytest.mark.parametrize("begin, end", [(0.5, 0.5), (-0.1, 1), (0, 1.1), (0.6, 0.2)])
def test_linear_refuses(begin, end):
    with pytest.raises(SettingError, match="begin_share < end_share"):
        Linear(0, 1, begin, end)


@pytest.mark.parametrize("cosine", [False, True])
def test_warmup_rises_then_falls(cosine):
    rate = Warmup(0.2, 0.1, cosine)
    values = [rate(Progress("t", i, 50)) for i in range(50)]
    assert values[0] == pytest.approx(0.1) and max(values) == pytest.approx(1, abs=0.02)
    top = values.index(max(values))
    assert 8 <= top <= 10 and values[:top] == sorted(values[:top]) and values[top:] == sorted(values[top:], reverse=True)
    assert values[-1] == pytest.approx(0.1 + 0.9 * (0.5 * (1 + math.cos(math.pi * 39 / 40)) if cosine else 1 / 40), rel=1e-6)
    assert all(v > 0 for v in values), "the first step moves"


def test_values():
    assert value_at(2, Progress()) == 2.0 and value_at(Linear(0, 1), Progress("t", 1, 4)) == 0.25
    assert Progress("t", 9, 4).share == 1.0 and Progress("t", 0, 0).share == 0.0


class Counting(Memory):
    def __init__(self):
        self.seen = 0

    def observe(self, progress, tracked):
        self.seen += 1

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


@dataclass(frozen=True)
class Holder:
    inner: object
    name: str = "x"
    others: tuple = field(default=())


def test_memories_are_found_anywhere_once_and_by_a_stable_path():
    one, two = Counting(), Counting()
    tree = {"a": Holder(one, others=(Holder(two), Holder(one)))}
    assert memories(tree) == {"a.inner": one, "a.others.0.inner": two}
    assert [p for p, _ in walk(tree)][:2] == ["", "a"]
    assert memories(Counting) == {}


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**40), names=st.lists(st.text(max_size=5), max_size=3))
def test_seeds_depend_on_every_name_and_nothing_else(seed, names):
    value = derive(seed, *names)
    assert 0 <= value < 2**63 and value == derive(seed, *names)
    assert value != derive(seed + 1, *names) and value != derive(seed, *names, "x")


def test_seeds_are_known_numbers_and_paths_do_not_run_together():
    assert derive(0, "a", 1) == derive(0, "a", "1")
    assert derive(0, "ab", "c") != derive(0, "a", "bc")
    assert torch.equal(torch.rand(3, generator=generator(1, "x")), torch.rand(3, generator=generator(1, "x")))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    generator(3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_ledger_adds_up_over_threads_and_comes_back():
    ledger = Ledger()
    threads = [threading.Thread(target=lambda: [ledger.add("t", "predict", tokens=2, money=0.5) for _ in range(500)]) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    account = ledger.get("t", "predict")
    assert (account.calls, account.tokens, account.money) == (2000, 4000, 1000.0)
    with pytest.raises(ZeroDivisionError), ledger.timed("t", "sample", tokens=3):
        raise ZeroDivisionError
    assert ledger.get("t", "sample").tokens == 3 and ledger.get("nobody", "x").calls == 0
    other = Ledger()
    other.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    assert other.state_dict() == ledger.state_dict()


def test_workspace_names_what_there_is(tmp_path):
    ws = Workspace(tmp_path, 3)
    ws.models["teacher"] = 1
    with pytest.raises(UnknownName, match=r"workspace model.*'techer'.*'teacher'"):
        ws.models["techer"]
    with pytest.raises(UnknownName, match=r"workspace data set.*Known: none"):
        ws.data["train"]
    inner = ws.within("stage", 4)
    assert inner.path == ("stage", 4) and ws.path == () and inner.models is ws.models and inner.ledger is ws.ledger
