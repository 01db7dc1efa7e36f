"""A cached teacher through the step that recipes take: value and gradient against the teacher in this process."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.core.errors import NeedError, StoreError
from tutelage.core.scores import Lazy
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update
from tutelage.data.cached import Cache, Dense, Drawn, Exact, States, Target, Top, answer, opened
from tutelage.data.cached.answer import rows_of
from tutelage.data.collate import Collate
from tutelage.signals.divergences import kl_forward, kl_reverse
from tutelage.signals.match import Match, Targets
from tutelage.signals.match import Top as OnTop
from tutelage.voices.cached import Cached, Stored
from tutelage.voices.says import Says

TRAINING = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
world, worst = TRAINING["world"], TRAINING["worst"]
KEY = {"weights": "w", "tokenizer": "t"}
WHOLE = Update((Term("kl", Match(kl_forward)),))
TOP = Update((Term("kl", Match(kl_forward, on=OnTop(12))),))
HOW = [{}, {"size": 1}, {"size": 2, "padding": "left"}, {"pack": True}]


def voice(world, tmp_path, form, name="c"):
    cache = Cache(tmp_path / name, KEY, form)
    return {"teacher": Cached(Says("teacher"), cache)}


def size(world):
    return world.pair.teacher.head.num_categories


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("what", ["dense", "states", "exact"])
def test_exact_forms_give_loss_and_gradient_of_the_live_teacher(world, tmp_path, what, how):
    num, update = size(world), TOP if what == "exact" else WHOLE
    form = {"dense": Dense(num), "states": States(32, num), "exact": Exact(12, num)}[what]
    live, told = world.gradients(update, **how)
    voices = voice(world, tmp_path, form)
    calls = []
    ask = world.pair.teacher.predict
    world.pair.teacher.predict = lambda *a: calls.append(1) or ask(*a)
    for number in range(2):  # cold, then warm
        cached, again = world.gradients(update, voices=voices, **how)
        assert again.loss == pytest.approx(told.loss, rel=1e-6)
        assert again.tallies["kl"].count == told.tallies["kl"].count
        assert worst(cached, live) < 2e-5
        assert number == 0 or not calls
        assert calls or number
        calls.clear()


def test_what_was_written_packed_is_read_in_any_grid(world, tmp_path):
    voices = voice(world, tmp_path, Dense(size(world)))
    live, _ = world.gradients(WHOLE)
    world.gradients(WHOLE, voices=voices, pack=True)
    world.pair.teacher.predict = None
    for how in HOW:
        cached, _ = world.gradients(WHOLE, voices=voices, **how)
        assert worst(cached, live) < 2e-5
    stored = Stored("teacher", opened(tmp_path / "c"), world.tokenizer)
    world.ws.models["teacher"] = stored
    world.gradients(WHOLE, voices={"teacher": Says("teacher")}, size=2)


def test_the_coded_top_is_near_and_cold_equals_warm(world, tmp_path):
    """Rounding moves the loss by less than it says, and the run that fills a cache takes the same steps as the next."""
    live, told = world.gradients(TOP)
    fine = voice(world, tmp_path, Top(12, size(world), coarse=0.01, fine=0.01), "fine")
    usual = voice(world, tmp_path, Top(12, size(world)), "usual")
    (near, close), (far, rough) = (world.gradients(TOP, voices=v) for v in (fine, usual))
    assert worst(near, live) < 0.01 and close.loss == pytest.approx(told.loss, rel=2e-3)
    assert worst(far, live) < 0.1 and rough.loss == pytest.approx(told.loss, rel=2e-2)
    warm, again = world.gradients(TOP, voices=usual)
    assert again.loss == rough.loss and all(torch.equal(warm[n], far[n]) for n in warm)


def test_drawn_ids_give_an_unbiased_gradient(world, tmp_path):
    """The mean gradient over caches whose draws differ tends to the live one as 1 / sqrt(caches)."""
    live, _ = world.gradients(WHOLE)
    name = max(live, key=lambda n: live[n].numel())
    draws = []
    for number in range(48):
        cache = Cache(tmp_path / f"c{number}", {"weights": str(number), "tokenizer": "t"}, Drawn(4, size(world)))
        cached, _ = world.gradients(WHOLE, voices={"teacher": Cached(Says("teacher"), cache)})
        draws.append(cached[name].double())
    draws = torch.stack(draws)
    error = draws.mean(0) - live[name].double()
    spread = draws.var(0).sum() / len(draws)
    assert float(error.square().sum()) < 2.0 * float(spread)  # its expectation is 1.0 * spread when unbiased
    single = (draws[0] - live[name].double()).square().sum()
    assert float(single) > 8 * float(error.square().sum())


def test_the_token_that_is_there_is_exact_in_every_form_that_gives_it(world, tmp_path):
    batch = Collate(world.tokenizer, 128)(world.records)
    view, target = batch.views["main"], batch.units["tokens"].target
    with torch.no_grad():
        scores = world.pair.teacher.predict(view, frozenset({"next"}))["next"]
    want = scores.at(slice(None)).gather(1, target.unsqueeze(1))
    ask = lambda v: world.pair.teacher.predict(v, frozenset({"next"}))["next"]
    for number, form in enumerate((Target(size(world)), Exact(3, size(world)))):
        with torch.no_grad():
            got = answer(Cache(tmp_path / str(number), KEY, form), view, ask).at(slice(None)).gather(1, target.unsqueeze(1))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    update = Update((Term("kl", Targets(Read("student"))),), watch=(("teacher", Targets(Read("teacher"))),))
    _, told = world.gradients(update)
    _, again = world.gradients(update, voices=voice(world, tmp_path, Target(size(world))))
    assert again.tallies["teacher"].mean == pytest.approx(told.tallies["teacher"].mean, rel=1e-6)


def test_rows_are_told_apart_however_they_lie(world):
    want = None
    for how in ({}, {"padding": "left"}, {"pack": True}):
        batch = Collate(world.tokenizer, 128, **how)(world.records)
        rows, home = rows_of(batch.views["main"])
        flat = np.concatenate([r.targets for r in rows])[home]
        assert np.array_equal(flat, batch.units["tokens"].target.numpy())
        keys = sorted((r.whole, len(r.tokens)) for r in rows)
        want = want or keys
        assert keys == want


def test_one_row_twice_in_a_batch_is_asked_and_kept_once(world, tmp_path):
    voices = voice(world, tmp_path, Dense(size(world)))
    twin = replace(world.records[1], id="z")
    live, _ = world.gradients(WHOLE, rows=[*world.records, twin])
    cached, _ = world.gradients(WHOLE, rows=[*world.records, twin], voices=voices)
    assert worst(cached, live) < 2e-5 and len(voices["teacher"].cache) == len(world.records)


def test_a_missing_row_without_a_teacher_says_what_to_do(world, tmp_path):
    voices = voice(world, tmp_path, Dense(size(world)))
    world.gradients(WHOLE, voices=voices, rows=world.records[:3])
    world.ws.models["teacher"] = Stored("teacher", opened(tmp_path / "c"), world.tokenizer)
    with pytest.raises(StoreError, match=r"2 of 5 rows that are not there.*tutelage cache RUNFILE.*load"):
        world.gradients(WHOLE, voices={"teacher": Says("teacher")})


def test_other_fields_and_other_vocabularies_are_refused(world, tmp_path):
    voices = voice(world, tmp_path, Dense(size(world)))
    read = Update((Term("kl", Match(kl_reverse, p=Read("teacher", "hidden.2"), q=Read("student", "hidden.1"))),))
    with pytest.raises(NeedError, match=r"answers out of a cache.*hidden\.2"):
        world.gradients(read, voices=voices)
    with pytest.raises(NeedError, match="categories"):
        world.gradients(WHOLE, voices=voice(world, tmp_path, Dense(size(world) + 1), "other"))


def test_a_batch_without_units_is_legal(world, tmp_path):
    cache = Cache(tmp_path / "c", KEY, Top(4, size(world)))
    rows = [replace(r, pieces=tuple(replace(p, trains=False) for p in r.pieces)) for r in world.records[:2]]
    said = answer(cache, Collate(world.tokenizer, 128)(rows).views["main"], None)
    assert len(said) == 0 and said.num_categories == size(world) and not isinstance(said, Lazy)
