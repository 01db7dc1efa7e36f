"""Likelihoods of chunks: against dense float64 autograd, and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tutelage.core import node
from tutelage.core.batch import Units
from tutelage.core.context import Context
from tutelage.core.errors import NeedError, SettingError
from tutelage.core.scores import Dense, Head, Lazy
from tutelage.core.signal import Read, Still
from tutelage.signals.chunks import BinaryEvent, Binned, Last, MatchEvents, RunSum, Starts
from tutelage.signals.parts import PartSum
from tutelage.signals.readouts import LogProb
from tutelage.voices.align.vocabulary import Picked

CHUNKS = "teacher.chunks"
HOME = [0, 0, 1, 2, 2, 2, 3, -1, 4, 5, 5, 6, 6]  # the student's 13 units
OTHER = [0, 1, 1, 2, 3, 3, -1, 4, 5, 6]  # the teacher's 10


class Says:
    def __init__(self, said):
        self.said = said

    def slots(self):
        return frozenset({"student"})

    def predict(self, ctx, wants):
        return self.said


@pytest.fixture(params=[(7, 30), (10**9, 10**9)], ids=["small tiles", "one chunk"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(node, "TILE_ELEMENTS", request.param[0])
    monkeypatch.setattr(node, "CHUNK_ELEMENTS", request.param[1])


@pytest.fixture
def world():
    """A student of 11 categories over 13 tokens, a teacher of 17 over 10; chunks 0-3 are row 0, 4-6 row 1."""
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 5, generator=g, dtype=torch.float64).requires_grad_() for n in (13, 11))
    states, head = (torch.randn(n, 5, generator=g, dtype=torch.float64) for n in (10, 17))
    rows = torch.tensor([0] * 8 + [1] * 5)
    tokens = Units(rows, torch.arange(13), torch.randint(11, (13,), generator=g), {CHUNKS: torch.tensor(HOME)})
    teacher = Units(torch.tensor([0] * 7 + [1] * 3), torch.arange(10), torch.randint(17, (10,), generator=g), {CHUNKS: torch.tensor(OTHER)})
    chunks = Units(torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 3, 0, 1, 2]))
    from tutelage.core.batch import Batch
    from tutelage.core.record import Record

    units = {"tokens": tokens, "teacher": teacher, CHUNKS: chunks, "rows": Units(torch.arange(2), torch.zeros(2, dtype=torch.long))}
    batch = Batch((Record("a", ()), Record("b", ())), units, {}, {}, torch.arange(2))

    def context(dense=False, inside=None):
        q, p = Lazy(hidden, Head(weight)), Lazy(states, Head(head))
        if dense:
            q, p = Dense((hidden @ weight.T).log_softmax(-1)), Dense((states @ head.T).log_softmax(-1))
        said = {"next": p, "begins": Binned(p, torch.arange(17) < 6)}
        voices = {"student": Says({"next": q}), "teacher": Says(said)}
        voices["teacher"].slots = lambda: frozenset({"teacher"})
        wants = {"student": frozenset({"next"}), "teacher": frozenset({"next", "begins"})}
        return Context(batch, voices, wants, frozenset({"student"}))

    return context, batch, (hidden, weight), (states, head)


def parts():
    return PartSum(LogProb(), CHUNKS), PartSum(LogProb(Read("teacher", over="teacher")), CHUNKS)


def loss(above=None, temperature=3.0):
    q, p = parts()
    if above is None:
        return MatchEvents(BinaryEvent(temperature), q, p)
    starts = Starts(Last(Read("teacher", "begins", over="teacher")), CHUNKS, above)
    return MatchEvents(BinaryEvent(temperature), RunSum(q, Still(starts)), RunSum(p, starts))


def by_hand(hidden, weight, target, home):
    log_q = (hidden @ weight.T).log_softmax(-1)
    return torch.stack([sum((log_q[t, target[t]] for t, h in enumerate(home) if h == c), torch.zeros((), dtype=torch.float64)) for c in range(7)])


def test_log_likelihood_of_a_chunk_is_the_sum_of_its_tokens(world, tiles):
    context, batch, (hidden, weight), (states, head) = world
    q, p = parts()
    ctx = context()
    assert torch.allclose(ctx(q), by_hand(hidden, weight, batch.units["tokens"].target, HOME), atol=1e-12)
    assert torch.allclose(ctx(p), by_hand(states, head, batch.units["teacher"].target, OTHER), atol=1e-12)
    total = float(ctx(q).detach().sum())
    kept = [i for i, h in enumerate(HOME) if h >= 0]
    assert total == pytest.approx(float(ctx(LogProb()).detach()[kept].sum()), abs=1e-12)


@pytest.mark.parametrize("above", [None, 0.2, 0.45])
def test_value_and_gradient_equal_dense_autograd(world, tiles, above):
    context, _, moving, _ = world
    signal = loss(above)
    weights = torch.linspace(0.5, 2, 7, dtype=torch.float64)
    got, want = context()(signal), context(dense=True)(signal)
    assert got.shape == (7,) and torch.allclose(got, want, atol=1e-12)
    mine, right = (torch.autograd.grad((x * weights).sum(), moving) for x in (got, want))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(mine, right, strict=True))
    assert max(float(a.abs().max()) for a in mine) > 1e-4


def test_gradient_by_finite_differences(world):
    context, _, (hidden, _), _ = world
    signal = loss(0.3)
    (grad,) = torch.autograd.grad(context()(signal).sum(), hidden)
    for place in ((0, 1), (5, 3), (7, 2), (12, 4)):
        step = 1e-6
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                hidden[place] += sign * step
                values.append(float(context()(signal).sum()))
                hidden[place] -= sign * step
        assert float(grad[place]) == pytest.approx((values[0] - values[1]) / 2 / step, abs=1e-7)


def test_runs_end_where_a_word_may_begin(world):
    context, batch, _, (states, head) = world
    mass = (states @ head.T).softmax(-1)[:, :6].sum(-1)
    starts = Starts(Last(Read("teacher", "begins", over="teacher")), CHUNKS, 0.3)
    got = context()(starts)
    last = {c: max(i for i, h in enumerate(OTHER) if h == c) for c in range(7)}
    want = [1.0]
    for c in range(1, 7):
        same_row = batch.units[CHUNKS].row[c] == batch.units[CHUNKS].row[c - 1]
        want.append(float(not same_row or float(mass[last[c - 1] + 1]) > 0.3))
    assert got.tolist() == want and 1 < sum(want) < 7
    q, _ = parts()
    ctx = context()
    runs = ctx(RunSum(q, starts))
    assert float(runs.detach().sum()) == pytest.approx(float(ctx(q).detach().sum()), abs=1e-12)
    assert bool((runs[torch.tensor(want) == 0] == 0).all())


def test_runs_do_not_reach_over_text_without_a_chunk(world):
    context, batch, _, _ = world
    ctx = context()
    apart = replace(batch.units[CHUNKS], time=torch.tensor([0, 2, 4, 6, 0, 2, 4]))
    ctx.batch = replace(batch, units={**batch.units, CHUNKS: apart})
    assert ctx(Starts(Last(Read("teacher", "begins", over="teacher")), CHUNKS, 0.999)).tolist() == [1.0] * 7


def reference(a, b, temperature, epsilon=1e-4):
    """The paper's loss less its least value, times T, in plain Python."""
    a, b = (a - epsilon) / temperature, (b - epsilon) / temperature
    def no(x):
        return math.log1p(-math.exp(x)) if x < -0.6 else math.log(-math.expm1(x))
    def loss(y):
        return -(math.exp(a) * y - math.expm1(a) * no(y))
    return temperature * (loss(b) - loss(a))


@pytest.mark.parametrize("temperature", [1.0, 7.0, 100.0])
def test_binary_event_is_the_papers_loss_less_its_least_value(temperature):
    """Card, check 1: at least 0, and 0 iff the two agree."""
    g = torch.Generator().manual_seed(1)
    a, b = (-8 * torch.rand(200, generator=g, dtype=torch.float64) for _ in range(2))
    value = BinaryEvent(temperature)(b, a)
    want = [reference(x, y, temperature) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert torch.allclose(value, torch.tensor(want, dtype=torch.float64), atol=1e-9, rtol=1e-6)
    assert bool((value > 0).all()) and float(BinaryEvent(temperature)(a, a).abs().max()) == 0


@pytest.mark.parametrize(("a", "b", "limit"), [(-0.5, -1.0, 0.15343), (-3.0, -2.0, 0.21640), (-9.0, -4.0, 2.29837)])
def test_limit_of_high_temperature(a, b, limit):
    """Card, check 2: within 0.1% at T = 1e4."""
    q, p = (torch.tensor([x], dtype=torch.float64) for x in (b, a))
    assert float(BinaryEvent(1e4)(q, p)) == pytest.approx(limit, rel=1e-3)
    assert (a - b) + a * (math.log(-b) - math.log(-a)) == pytest.approx(limit, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_and_impossible_chunks(dtype):
    """Card, check 5: no NaN when a chunk's probability is 1 or e^-500; value and gradient are finite."""
    values = torch.tensor([0.0, 1e-7, -1e-12, -1e-4, -3.0, -500.0, -1e5], dtype=dtype)
    for temperature in (1.0, 100.0):
        for p in values:
            q = values.clone().requires_grad_()
            loss = BinaryEvent(temperature)(q, p.expand_as(q))
            (grad,) = torch.autograd.grad(loss.sum(), q)
            assert loss.dtype == dtype and torch.isfinite(loss).all() and torch.isfinite(grad).all() and bool((loss >= -1e-9).all())


@pytest.mark.parametrize("build", [lambda: BinaryEvent(0.0), lambda: BinaryEvent(1.0, 0.0), lambda: Starts(LogProb(), CHUNKS, 1.0)], ids=["temperature", "epsilon", "above"])
def test_settings_are_checked(build):
    with pytest.raises(SettingError):
        build()


def test_units_without_chunks_are_refused(world):
    context, *_ = world
    with pytest.raises(NeedError, match="Aligned"):
        context()(PartSum(LogProb(), "rows"))


def test_scores_of_picked_and_binned_categories(world):
    log_p = torch.randn(6, 9, dtype=torch.float64).log_softmax(-1)
    picked = Picked(Dense(log_p), torch.tensor([4, 0, 7])).held(torch.arange(5)).at(slice(1, 4))
    assert torch.allclose(picked[:, :3], log_p[1:4][:, [4, 0, 7]]) and torch.allclose(picked.exp().sum(-1), torch.ones(3, dtype=torch.float64))
    binned = Binned(Dense(log_p), torch.arange(9) < 2).at(slice(None))
    assert torch.allclose(binned.exp(), torch.stack([log_p.exp()[:, 2:].sum(-1), log_p.exp()[:, :2].sum(-1)], -1))


def test_what_both_sides_read_of_the_teacher_is_swept_once(world, monkeypatch):
    """Its head is the costly part: log-probabilities of the tokens and of word starts come of one pass."""
    context, *_ = world
    swept = []
    run = node.run
    monkeypatch.setattr(node, "run", lambda sweep, *rest: swept.append((sweep.over, len(sweep.signals))) or run(sweep, *rest))
    context()(loss(0.3))
    assert sorted(swept) == [("teacher", 2), ("tokens", 1)]
