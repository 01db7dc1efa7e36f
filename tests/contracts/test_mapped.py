"""Temperatures of each position's own and standardised logits: in the sweep, by every road, against dense float64."""

from dataclasses import dataclass, replace

import pytest
import torch

from tutelage.core import node
from tutelage.core.batch import Batch, Units
from tutelage.core.context import Context
from tutelage.core.describe import describe
from tutelage.core.errors import NeedError, SettingError
from tutelage.core.needs import LOG_PROBS, needs
from tutelage.core.needs import check as needs_check
from tutelage.core.scores import Dense, Head, Lazy
from tutelage.core.signal import Constant, Noted, Read, Still
from tutelage.core.term import Term, Update
from tutelage.recipes import base
from tutelage.signals import match
from tutelage.signals.divergences import Alpha, Jensen, SkewedForward, Tempered, kl_forward, kl_reverse, total_variation
from tutelage.signals.divergences import launch as launching
from tutelage.signals.logits import AtTemperature, Standardised
from tutelage.signals.match import Match, Targets, Top
from tutelage.signals.readouts import Entropy
from tutelage.signals.scale import MinMax
from tutelage.training.step import Plan
from tutelage.voices.blend import Blend

WARM = Noted("warm")
CERTAIN = Constant(0.5) + Entropy(Read("teacher"))
COMPARES = (kl_forward, kl_reverse, Jensen(0.3), SkewedForward(0.2), Alpha(0.4), total_variation, Tempered(kl_forward, 2.0))


@pytest.fixture(params=[(7, 30), (1, 1), (10**9, 10**9)], ids=["small tiles", "one row", "one chunk"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(node, "TILE_ELEMENTS", request.param[0])
    monkeypatch.setattr(node, "CHUNK_ELEMENTS", request.param[1])


@pytest.fixture
def warmed(setting):
    """A setting whose units carry a note ``warm``, a temperature each, and whose rows carry one too."""

    def make(**how):
        s = setting(**how)
        num = len(s.hidden)
        s.batch.notes["tokens.warm"] = torch.linspace(0.4, 3.0, num, dtype=s.hidden.dtype)
        s.batch.notes["rows.mild"] = torch.tensor([0.7, 1.0, 1.5, 2.5], dtype=s.hidden.dtype)
        return s

    return make


def through(*lenses):
    return {"q": Read("student", through=lenses), "p": Read("teacher", through=lenses)}


def entropy(log_p):
    return -(log_p.exp() * log_p).sum(-1)


def standard(z, b):
    return (z - z.mean(-1, keepdim=True)) / (z.std(-1, keepdim=True) + 1e-7) / b


@dataclass
class Heads:
    """How both heads make logits, and the same logits dense."""

    student: Head
    teacher: Head

    def dense(self, s):
        q = self.student.squash(self.student.raw(s.hidden))
        return q, self.teacher.squash(self.teacher.raw(s.teacher_hidden))

    def context(self, s):
        return heads_context(s, Lazy(s.hidden, self.student), Lazy(s.teacher_hidden, self.teacher))


@dataclass(frozen=True, eq=False)
class Fixed:
    slot: str
    scores: object

    def slots(self):
        return frozenset({self.slot})

    def predict(self, ctx, wants):
        return {"next": self.scores}


def heads_context(s, q, p):
    return Context(s.batch, {"student": Fixed("student", q), "teacher": Fixed("teacher", p)}, {}, frozenset({"student"}))


def plain(s):
    return Heads(Head(s.weight), Head(s.teacher_weight))


def odd(s):
    """A soft cap, a scale, a bias, and a student's head with padding."""
    g = torch.Generator().manual_seed(3)
    bias = torch.randn(s.weight.shape[0], generator=g, dtype=s.weight.dtype)
    padded = torch.cat([s.weight, torch.full_like(s.weight[:3], 9.0)])
    return Heads(Head(padded, torch.cat([bias, bias[:3]]), scale=0.7, cap=2.0, size=len(s.weight)), Head(s.teacher_weight, cap=1.5))


def found(signal, s, heads, coefficients):
    ctx = heads.context(s)
    ctx.settle(signal)
    value, values = node.total(ctx, "tokens", [signal], coefficients[None])
    return value, values[0], torch.autograd.grad(value, (s.hidden, s.weight))


def check(signal, want, s, heads):
    """Value and gradients of a weighted sum, a unit of weight 0 among them."""
    coefficients = torch.linspace(-1.1, 2, len(s.hidden), dtype=torch.float64)
    coefficients[3] = 0.0
    dense = want(*heads.dense(s))
    slopes = torch.autograd.grad((dense * coefficients).sum(), (s.hidden, s.weight))
    value, values, got = found(signal, s, heads, coefficients)
    assert torch.allclose(value, (dense * coefficients).sum(), atol=1e-10)
    assert torch.allclose(values[4:], dense[4:].detach(), atol=1e-10)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(got, slopes, strict=True))


def at(z, t):
    return (z / t.unsqueeze(-1)).log_softmax(-1)


@pytest.mark.parametrize("compare", COMPARES, ids=describe)
@pytest.mark.parametrize("make", [plain, odd])
def test_a_temperature_a_position(compare, make, warmed, tiles):
    s = warmed()
    t, heads = s.batch.notes["tokens.warm"], make(s)
    lens = AtTemperature(WARM)
    check(Match(compare, **through(lens)), lambda q, p: compare(at(q, t), at(p, t).detach()), s, heads)
    check(Still(WARM) ** 2 * Match(compare, **through(lens)), lambda q, p: t**2 * compare(at(q, t), at(p, t).detach()), s, heads)
    one_side = Match(compare, p=Read("teacher", through=(lens,)))
    check(one_side, lambda q, p: compare(q.log_softmax(-1), at(p, t).detach()), s, heads)


@pytest.mark.parametrize("compare", [kl_forward, total_variation], ids=describe)
def test_each_side_has_its_own(compare, warmed, tiles):
    s = warmed()
    row = s.batch.notes["rows.mild"][s.batch.units["tokens"].row]
    by_entropy = AtTemperature(CERTAIN)
    signal = Match(compare, Read("student", through=(by_entropy,)), Read("teacher", through=(AtTemperature(Noted("mild", "rows")),)))
    heads = plain(s)
    check(signal, lambda q, p: compare(at(q, 0.5 + entropy(p.log_softmax(-1))), at(p, row).detach()), s, heads)
    own = Match(compare, **through(AtTemperature(Constant(0.2) + Entropy())))  # of the student's own entropy, held still

    def want(q, p):
        t = 0.2 + entropy(q.log_softmax(-1)).detach()
        return compare(at(q, t), at(p, t).detach())

    check(own, want, s, heads)


@pytest.mark.parametrize("on", [Top(4), Top(3, rest="renormalise"), Top(4, of="student")], ids=describe)
def test_top_k_and_the_rest_at_a_temperature(on, warmed, tiles):
    s = warmed()
    t, heads = s.batch.notes["tokens.warm"], odd(s)
    signal = Match(kl_reverse, **through(AtTemperature(WARM)), on=on)
    check(signal, lambda q, p: kl_reverse(*on(at(q, t), at(p, t).detach())), s, heads)


@pytest.mark.parametrize("compare", COMPARES, ids=describe)
@pytest.mark.parametrize("make", [plain, odd])
def test_standardised_logits(compare, make, warmed, tiles):
    s, heads = warmed(), make(warmed())
    heads = make(s)
    lens = Standardised(0.6)
    log = lambda z: standard(z, 0.6).log_softmax(-1)
    check(Match(compare, **through(lens)), lambda q, p: compare(log(q), log(p).detach()), s, heads)
    student = Match(compare, Read("student", through=(lens,)), on=Top(4)) if not isinstance(compare, Tempered) else None
    if student:
        check(student, lambda q, p: compare(*Top(4)(log(q), p.log_softmax(-1).detach())), s, heads)


def test_both_maps_one_over_the_other(warmed, tiles):
    s = warmed()
    t, heads = s.batch.notes["tokens.warm"], plain(s)
    signal = Match(kl_forward, **through(Standardised(), AtTemperature(WARM)))
    check(signal, lambda q, p: kl_forward(at(standard(q, 1), t), at(standard(p, 1), t).detach()), s, heads)


def test_what_standardising_promises(warmed):
    s = warmed()
    signal = Match(kl_forward, **through(Standardised(0.5)))
    heads = plain(s)
    value = heads.context(s)(signal)
    moved = heads_context(s, Lazy(s.hidden, Head(s.weight, torch.full((11,), 4.0, dtype=torch.float64), scale=3.0)), Lazy(s.teacher_hidden, Head(s.teacher_weight, scale=0.2)))
    assert torch.allclose(moved(signal), value, atol=1e-6)
    # its gradient can change neither mean nor scale of the logits
    logits = (s.hidden @ s.weight.T).detach()
    bias = torch.zeros(11, dtype=torch.float64, requires_grad=True)
    for u in range(3):
        ctx = heads_context(s, Lazy(s.hidden, Head(s.weight, bias)), Lazy(s.teacher_hidden, Head(s.teacher_weight)))
        pick = torch.zeros(13, dtype=torch.float64)
        pick[u] = 1.0
        (slope,) = torch.autograd.grad(node.total(ctx, "tokens", [signal], pick[None])[0], bias)
        assert abs(float(slope.sum())) < 1e-9 and abs(float((slope * (logits[u] - logits[u].mean())).sum())) < 1e-6
        assert float(slope.norm()) > 1e-3


def test_categories_that_a_bias_excludes_count_in_no_mean(warmed, tiles):
    s = warmed()
    bias = torch.zeros(11, dtype=torch.float64)
    bias[2] = -torch.inf
    rest = [c for c in range(11) if c != 2]
    heads = Heads(Head(s.weight, bias), Head(s.teacher_weight, bias))
    lens = Standardised()

    def want(q, p):
        return kl_forward(standard(q[:, rest], 1).log_softmax(-1), standard(p[:, rest], 1).log_softmax(-1).detach())

    check(Match(kl_forward, **through(lens)), want, s, heads)


def test_equal_logits_stay_equal(warmed):
    s = warmed()
    flat = Lazy(torch.zeros_like(s.hidden).requires_grad_(), Head(s.weight))
    value = heads_context(s, flat, Lazy(s.teacher_hidden, Head(s.teacher_weight)))(Match(kl_forward, **through(Standardised())))
    (slope,) = torch.autograd.grad(value.sum(), flat.hidden)
    assert torch.isfinite(value).all() and torch.isfinite(slope).all()


@pytest.mark.parametrize("geometric", [False, True])
@pytest.mark.parametrize("compare", [kl_forward, total_variation], ids=describe)
def test_a_mixture_with_shares_a_position_at_a_temperature_a_position(compare, geometric, warmed, tiles):
    s = warmed()
    s.batch.notes["rows.mild"][3] = 0.0  # where the teacher is heard alone
    t, rows = s.batch.notes["tokens.warm"], s.batch.notes["rows.mild"][s.batch.units["tokens"].row]
    s.batch.notes["tokens.share"] = torch.linspace(0.1, 2.0, 13, dtype=torch.float64)
    pool = Blend(("teacher", "student"), (Noted("share"), Noted("mild", "rows")), geometric)
    signal = Match(compare, Read("student", through=(AtTemperature(WARM),)), Read("pool", through=(AtTemperature(WARM),)))
    share = s.batch.notes["tokens.share"] / (s.batch.notes["tokens.share"] + rows)

    def want(q, p):
        w, a, b = share.unsqueeze(-1), p.log_softmax(-1), q.log_softmax(-1)
        mixed = w * a + (1 - w) * b if geometric else torch.log(w * a.exp() + (1 - w) * b.exp())
        return compare(at(q, t), at(mixed, t).detach())

    class Pooled(Heads):
        def context(self, s):
            ctx = super().context(s)
            ctx.voices = {**ctx.voices, "pool": pool}
            return ctx

    check(signal, want, s, Pooled(Head(s.weight), Head(s.teacher_weight)))
    s.batch.notes["tokens.share"][2] = -1.0
    with pytest.raises(SettingError, match="below 0"):
        Pooled(Head(s.weight), Head(s.teacher_weight)).context(s)(signal)


@pytest.mark.parametrize("lens", [AtTemperature(WARM), AtTemperature(CERTAIN), Standardised(0.7)], ids=describe)
@pytest.mark.parametrize("compare", [kl_forward, total_variation], ids=describe)
def test_parts_of_a_batch_add_up(lens, compare, warmed):
    s = warmed()
    signal = Match(compare, **through(lens))
    whole = found(signal, s, plain(s), torch.ones(13, dtype=torch.float64))
    row, total, sums = s.batch.units["tokens"].row, 0.0, [0.0, 0.0]
    for rows in ((0, 1), (2, 3)):
        mine = (row >= rows[0]) & (row <= rows[1])
        units = s.batch.units["tokens"]
        some = Units(row[mine] - rows[0], units.time[mine], units.target[mine])
        notes = {"tokens.warm": s.batch.notes["tokens.warm"][mine]}
        batch = Batch(s.batch.records[rows[0] : rows[1] + 1], {"tokens": some}, {}, notes)
        part = replace(s, hidden=s.hidden.detach()[mine].requires_grad_(), teacher_hidden=s.teacher_hidden[mine], batch=batch)
        value, _, (hidden, weight) = found(signal, part, plain(part), torch.ones(int(mine.sum()), dtype=torch.float64))
        total, sums[1] = total + value, sums[1] + weight
        assert torch.allclose(hidden, whole[2][0][mine], atol=1e-10)
    assert torch.allclose(total, whole[0], atol=1e-10) and torch.allclose(sums[1], whole[2][1], atol=1e-10)


def test_it_takes_the_closed_form(warmed, monkeypatch):
    s = warmed()
    signals = [Match(kl_forward, **through(AtTemperature(WARM))), Still(WARM) ** 2 * Match(kl_reverse, **through(AtTemperature(WARM))),
               Match(Jensen(0.5), **through(Standardised())), -Targets(Read("student", through=(AtTemperature(WARM),)))]  # fmt: skip
    monkeypatch.setattr(node, "_by_autograd", None)
    for signal in signals:
        found(signal, s, plain(s), torch.ones(13, dtype=torch.float64))


@pytest.mark.parametrize("compare", [kl_forward, Jensen(0.3), Tempered(kl_reverse, 2.0)], ids=describe)
def test_the_kernel_loads_a_temperature_a_row(compare, warmed, monkeypatch):
    pytest.importorskip("triton")
    s = warmed(dtype=torch.float32)
    exact = warmed()
    t = exact.batch.notes["tokens.warm"]
    launched = []
    original = launching.Launch.__call__
    monkeypatch.setattr(launching.Launch, "__call__", lambda *a: launched.append(1) or original(*a))
    monkeypatch.setattr(match, "usable", lambda raw: True)
    signal = Still(WARM) ** 2 * Match(compare, Read("student", through=(AtTemperature(WARM),)))
    heads = Heads(Head(s.weight, scale=0.8, cap=3.0), Head(s.teacher_weight))
    value, _, got = found(signal, s, heads, torch.ones(13))
    assert launched
    q, p = Heads(Head(exact.weight, scale=0.8, cap=3.0), Head(exact.teacher_weight)).dense(exact)
    want = (t**2 * compare(at(q, t), p.log_softmax(-1).detach())).sum()
    slopes = torch.autograd.grad(want, (exact.hidden, exact.weight))
    assert float(value.detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    assert all(float((a - b).norm() / b.norm()) < 1e-5 for a, b in zip(got, slopes, strict=True))
    launched.clear()
    standard_one = Match(compare, **through(Standardised()))
    found(standard_one, s, heads, torch.ones(13))
    assert not launched, "no kernel knows standardised logits"


def test_what_cannot_be_is_refused(warmed):
    s = warmed()
    s.batch.notes["tokens.warm"][5] = 0.0
    with pytest.raises(SettingError, match=r"0 to 3"):
        plain(s).context(s)(Match(kl_forward, **through(AtTemperature(WARM))))
    with pytest.raises(SettingError):
        Standardised(0.0)
    with pytest.raises(NeedError, match="features"):
        heads_context(s, s.hidden, Dense(s.log_p()))(Match(kl_forward, Read("student", through=(Standardised(),))))


def test_the_most_probable_of_a_teacher_are_not_enough():
    """A teacher that tells its k largest log-probabilities cannot say what the rest becomes at another temperature."""
    for lens in (AtTemperature(WARM), Standardised()):
        signal = Match(kl_forward, p=Read("teacher", through=(lens,)), on=Top(5))
        recipe = base.offline(Term("kl", signal))
        assert needs(recipe)["teacher"] == {"next"} and needs(base.offline(Term("kl", Match(kl_forward, on=Top(5)))))["teacher"] == {"next.top"}
        with pytest.raises(NeedError):
            needs_check(recipe, {"teacher": LOG_PROBS})


def test_what_a_temperature_reads_is_asked_for(warmed):
    lens = AtTemperature(Constant(1.0) + Entropy(Read("other")))
    plan = Plan.of(Update((Term("kl", Match(kl_forward, **through(lens))),)), {})
    assert plan.wants["other"] == {"next"}
    blended = Match(kl_forward, p=Read("pool"))
    plan = Plan.of(Update((Term("kl", blended),)), {"pool": Blend(("a", "b"), (Entropy(Read("c")), 1.0))})
    assert {who for who, what in plan.wants.items() if "next" in what} == {"student", "pool", "a", "b", "c"}
    coupled = AtTemperature(Constant(1.0) + MinMax(Entropy(Read("teacher"))))
    with pytest.raises(NeedError, match="whole batch"):
        Plan.of(Update((Term("kl", Match(kl_forward, **through(coupled))),)), {}).refuse_split(2)
