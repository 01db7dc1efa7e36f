"""What each form decodes to, against float64 arithmetic written out here."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core.errors import NeedError, SettingError, UnknownName
from tutelage.core.scores import Dense as Whole
from tutelage.core.scores import Head, Lazy
from tutelage.data.cached import Dense, Drawn, Exact, States, Target, Top, form_of
from tutelage.data.cached.code import Code, classes_of, fitted, ranks_of
from tutelage.data.cached.levels import TAIL_STEPS, Ladder, log_sum, tail_level, tail_value

FORMS = [Dense(37), Target(37), Exact(5, 37), Top(5, 37), Drawn(9, 37), Drawn(9, 37, temperature=1.5), States(6, 37)]


def log_probs(seed, num, categories, spread=3.0):
    draws = torch.Generator().manual_seed(seed)
    return (torch.randn(num, categories, generator=draws, dtype=torch.float64) * spread).log_softmax(-1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def back(form, scores, targets, code=None):
    """What is read after it was written."""
    if form.coded and code is None:
        code = Code(form.num_categories)
    fields = form.of(scores, targets, generator())
    return dict(form.fields(form.data(fields, targets, code), targets, code)) | {"targets": targets}


def read(form, rows, head=None):
    return form.under(rows, head) if isinstance(form, States) else form.scores(rows)


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f"{f.name}-{getattr(f, 'temperature', 0)}")
@pytest.mark.parametrize("num", [0, 1, 7])
def test_a_form_reads_what_it_wrote(form, num):
    head = Head(torch.randn(37, 6, generator=generator(1)))
    scores = Lazy(torch.randn(num, 6, generator=generator(2)), head)
    targets = np.arange(num) * 5 % 37
    rows = back(form, scores, targets)
    found = read(form, rows, head)
    assert len(found) == num and found.num_categories == 37
    again = back(form, scores, targets)
    assert all(np.array_equal(again[k], rows[k]) for k in rows)
    assert form_of(form.facts()) == form and "0x" not in repr(form)
    if num and not form.linear:
        assert torch.allclose(found.at(slice(None)).double().logsumexp(-1), torch.zeros(num, dtype=torch.float64), atol=2e-6)


def test_exact_forms_are_exact():
    lp, targets = log_probs(0, 6, 37).float(), np.array([0, 3, 36, 8, 9, 1])
    own = lp[torch.arange(6), torch.from_numpy(targets)]
    assert torch.equal(read(Dense(37), back(Dense(37), Whole(lp), targets)).at(slice(None)), lp)
    assert torch.equal(read(Target(37), back(Target(37), Whole(lp), targets)).log_probs[:, 0], own)
    kept = read(Exact(5, 37), back(Exact(5, 37), Whole(lp), targets))
    top = lp.topk(5)
    assert torch.equal(kept.ids[:, :5], top.indices) and torch.equal(kept.log_probs[:, :5], top.values)
    said = kept.at(slice(None))
    for row, target in enumerate(targets.tolist()):
        if target not in top.indices[row]:
            assert float(said[row, target]) == float(own[row])
    assert all(len(set(row)) == 6 for row in kept.ids.tolist())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_under_their_head_are_the_teacher(dtype):
    kind = getattr(torch, dtype)
    head = Head(torch.randn(37, 6, generator=generator(1)).to(kind), torch.randn(37, generator=generator(3)).to(kind), scale=0.5, cap=4.0, size=35)
    scores = Lazy(torch.randn(5, 6, generator=generator(2)).to(kind), head)
    form = States(6, 35, dtype)
    assert torch.equal(read(form, back(form, scores, np.zeros(5, np.int64)), head).at(slice(None)), scores.at(slice(None)))
    with pytest.raises(NeedError, match="states"):
        form.of(Whole(log_probs(0, 2, 35)), np.zeros(2, np.int64), generator())


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000), num=st.integers(0, 6), size=st.integers(2, 1 << 20) | st.integers(2, 60),
    kept=st.integers(1, 70), ties=st.booleans(), spread=st.floats(0.01, 12), absent=st.booleans(),
)
def test_top_comes_back_within_its_steps(seed, num, size, kept, ties, spread, absent):
    """Any vocabulary, any k, ties and probabilities of 0: ids exactly, log-probabilities within half a step, the rest."""
    lp = log_probs(seed, num, min(size, 400), spread)
    if ties:
        lp = (lp / spread).round().log_softmax(-1)
    if absent:
        lp = lp.masked_fill(torch.arange(lp.shape[1]) % 3 == 1, -torch.inf).log_softmax(-1)
    if size > lp.shape[1]:  # ids far apart
        wide = torch.full((num, size), -torch.inf, dtype=torch.float64)
        wide[:, torch.linspace(0, size - 1, lp.shape[1]).long()] = lp
        lp = wide
    targets = np.random.default_rng(seed).integers(0, size, num)
    form = Top(kept, size)
    rows = back(form, Whole(lp), targets)
    width = min(kept, size)
    top = lp.topk(width, -1).values.numpy()
    mass = lp.gather(1, torch.from_numpy(rows["ids"])).numpy()
    np.testing.assert_allclose(np.sort(mass)[:, ::-1], np.sort(top)[:, ::-1])  # a choice of k most probable ids
    found = form.ladder.value(rows["levels"])
    assert (np.isneginf(found) == np.isneginf(mass)).all()
    fine = np.isfinite(mass) & (mass > -59)
    u = lambda x: x / form.coarse + 2 * np.exp(x / 2) / form.fine
    assert (np.abs(u(found[fine]) - u(mass[fine])) <= 0.5 + 1e-6).all() or np.isclose(found[fine].max(), 0, atol=form.fine)
    if width < size:
        whole = -np.expm1(np.minimum(log_sum(top), 0))
        log_rest, _ = tail_value(rows["tail"])
        real = (whole > 1e-6) & (whole < 1 - 1e-6)
        odds = np.log(whole[real]) - np.log1p(-whole[real])
        np.testing.assert_allclose(log_rest[real] - np.log1p(-np.exp(log_rest[real])), odds, atol=0.5 / TAIL_STEPS + 1e-6)
    kept_scores = form.scores(rows)
    _, log_kept = tail_value(rows["tail"])
    found = log_sum(kept_scores.log_probs[:, :width].double().numpy())
    some = np.isfinite(mass).any(1)
    np.testing.assert_allclose(found[some], log_kept[some], atol=1e-5)  # scaled to what the rest leaves, exactly
    assert all(len(set(row)) == len(row) for row in kept_scores.ids.tolist())
    assert not torch.isnan(kept_scores.log_probs).any() and (kept_scores.log_probs <= 1e-6).all()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), num=st.integers(1, 40), kept=st.integers(1, 30), rows=st.integers(1, 4))
def test_any_code_gives_the_same_numbers(seed, num, kept, rows):
    """What is read back does not depend on the code, only how many bytes it takes."""
    form, targets = Top(kept, 300), np.random.default_rng(seed).integers(0, 300, num)
    some = [(form.of(Whole(log_probs(seed + r, num, 300)), targets, generator()), targets) for r in range(rows)]
    code = Code.read(fitted(300, some, lambda out, row: form.put(out, *row), num * rows).data, "here")
    for row, own in some:
        one = form.fields(form.data(row, own, code), own, code)
        other = form.fields(form.data(row, own, Code(300)), own, Code(300))
        order = [np.lexsort((r["ids"], -r["levels"])) for r in (one, other)]
        for name in ("ids", "levels"):
            left, right = (np.take_along_axis(r[name], o, 1) for r, o in zip((one, other), order, strict=True))
            assert np.array_equal(left, right)
        assert np.array_equal(one["tail"], other["tail"]) and np.array_equal(one["outside"], other["outside"])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_drawn_estimates_are_unbiased(temperature):
    """The mean of many draws is the distribution, within five standard errors at each category; so is what is linear."""
    lp, repeats = log_probs(4, 1, 60, 1.5), 4000
    form = Drawn(8, 60, temperature=temperature)
    scores = Whole(lp.expand(repeats, 60))
    rows = back(form, scores, np.zeros(repeats, np.int64))
    found = form.scores(rows).at(slice(None)).double().exp()
    error = found.std(0) / repeats**0.5 + 1e-9
    assert ((found.mean(0) - lp[0].exp()).abs() <= 5 * error + 1e-7).all()
    log_q = log_probs(5, 1, 60, 1.0)[0]
    loss = -(found * log_q).sum(-1)
    assert abs(float(loss.mean() + (lp[0].exp() * log_q).sum())) <= 5 * float(loss.std()) / repeats**0.5
    if temperature == 1:
        assert torch.allclose(found.sum(-1), torch.ones(repeats, dtype=torch.float64), atol=1e-6)
    assert float(found.std(0).max()) > 0.01  # it is a sample


def test_a_draw_is_a_function_of_its_seed():
    form, lp = Drawn(8, 60), Whole(log_probs(4, 5, 60))
    targets = np.zeros(5, np.int64)
    one, same, other = (form.of(lp, targets, generator(s))["ids"] for s in (1, 1, 2))
    assert np.array_equal(one, same) and not (one.shape == other.shape and np.array_equal(one, other))


def test_kl_of_rounding_is_below_its_bound():
    """``k fine^2 / 24`` nats at most, far below what leaving out the rest costs."""
    lp = log_probs(1, 200, 500, 2.5)
    form = Top(50, 500, coarse=4.0, fine=0.05)
    rows = back(form, Whole(lp), np.zeros(200, np.int64))
    decoded = form.scores(rows).at(slice(None)).double().gather(1, torch.from_numpy(rows["ids"]))
    kept = lp.gather(1, torch.from_numpy(rows["ids"]))
    log_rest, _ = tail_value(rows["tail"])
    rest = torch.log(-torch.expm1(kept.logsumexp(-1)))
    kl = (kept.exp() * (kept - decoded)).sum(-1) + rest.exp() * (rest - torch.from_numpy(log_rest))
    assert -1e-9 < float(kl.mean()) < 50 * 0.05**2 / 24
    coarse = Top(50, 500, coarse=4.0, fine=0.5)
    rows = back(coarse, Whole(lp), np.zeros(200, np.int64))
    worse = coarse.scores(rows).at(slice(None)).double().gather(1, torch.from_numpy(rows["ids"]))
    assert float((lp.gather(1, torch.from_numpy(rows["ids"])).exp() * (lp.gather(1, torch.from_numpy(rows["ids"])) - worse)).sum(-1).mean()) > float(kl.mean())


@settings(deadline=None, max_examples=50)
@given(coarse=st.floats(0.01, 8), fine=st.floats(1e-3, 8), x=st.floats(-59, 0))
def test_a_ladder_rises_and_its_middles_lie_in_their_steps(coarse, fine, x):
    ladder = Ladder(coarse, fine)
    levels = np.arange(1, ladder.size)
    middles = ladder.value(levels)
    assert (np.diff(middles) >= 0).all() and np.isneginf(ladder.value(np.zeros(1, np.int64))).all()
    inside = levels[:-1]
    assert np.array_equal(ladder.level(ladder.value(inside)), inside)
    assert abs(float(ladder.value(ladder.level(np.array([x])))[0]) - x) <= coarse
    assert ladder.level(np.array([-np.inf, -1e9, 1e-7])).tolist() == [0, 1, ladder.size - 1]


def test_the_tail_and_what_is_kept_add_up():
    rest = np.array([-np.inf, -30.0, -9.0, -1.0, np.log(0.5), -1e-3, -1e-12])
    log_rest, log_kept = tail_value(tail_level(rest))
    np.testing.assert_allclose(np.exp(log_rest) + np.exp(log_kept), 1, atol=1e-12)
    np.testing.assert_allclose(np.exp(log_rest[2:5]), np.exp(rest[2:5]), rtol=0.009)
    assert log_kept[0] == 0 and np.isneginf(log_rest[0])


@given(st.lists(st.integers(0, (1 << 20) - 1), min_size=1, max_size=50))
def test_classes_hold_their_ranks(ranks):
    classes, sizes = classes_of(np.array(ranks))
    first, same = ranks_of(classes)
    assert (sizes == same).all() and (first <= ranks).all() and (np.array(ranks) < first + sizes).all()
    order = np.argsort(ranks)
    assert (np.diff(classes[order]) >= 0).all()


def test_wrong_settings_are_refused_when_made():
    for bad in (lambda: Top(0, 5), lambda: Top(5, 5, fine=0.0), lambda: Drawn(0, 5), lambda: Drawn(5, 5, temperature=0.0),
                lambda: Dense(0), lambda: Top(5, (1 << 20) + 1), lambda: Ladder(-1, 1)):  # fmt: skip
        with pytest.raises(SettingError):
            bad()
    with pytest.raises(UnknownName, match="float64"):
        States(5, 5, "float64")
    with pytest.raises(UnknownName, match="topp"):
        form_of({"form": "topp"})
    with pytest.raises(UnknownName, match="num_keep"):
        form_of({"form": "top", "num_keep": 3, "num_categories": 4})
