"""KAT, check by check of its card; check 7 is tests/behaviour/test_kat.py."""

from __future__ import annotations

import json
import math
import random
import runpy
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.core.errors import SettingError
from tutelage.core.schedule import Progress, memories
from tutelage.core.signal import Constant
from tutelage.core.term import Term, Update
from tutelage.data.pipeline import run_steps
from tutelage.data.render import prompt_ids
from tutelage.data.settled import Lows, Settled
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.note import Note
from tutelage.data.steps.stretches import SETTLED, Stretches
from tutelage.recipes.kat import kat
from tutelage.signals.divergences import kl_reverse
from tutelage.signals.match import Match, Top
from tutelage.signals.pools import GroupNorm

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, size = (KIT[n] for n in ("world", "worst", "setting", "stage", "size"))
rollouts, context, limit, step, same = (KIT[n] for n in ("rollouts", "context", "limit", "step", "same"))
teacher_folder, data_folder, new_run, forks = (KIT["RUNNING"][n] for n in ("teacher_folder", "data_folder", "new_run", "forks"))


def lows(values=(), share=0.3, **how):
    """A queue that holds some values and is past its warm-up."""
    made = Lows(share, **{"size": 4096, "least": 1, "steps": 0, **how})
    made.load_state_dict({"values": list(values), "new": [], "done": 99})
    return made


@limit("kat", "flagged=0, stretch=max_tokens and top_p=1: opd.")
def test_1_where_nothing_is_flagged_it_is_opd(step):
    want = step(stage("opd", max_tokens=6))
    same(step(stage("kat", flagged=0.0, stretch=6, max_tokens=6, top_p=1.0)), want)


def test_1_before_the_warm_up_is_over_nothing_is_cut_whatever_is_flagged(step):
    cold = {"stretch": 6, "max_tokens": 6, "top_p": 1.0, "window": 1, "runs": 1, "exempt": 0}
    same(step(stage("kat", flagged=0.9, **cold)), step(stage("opd", max_tokens=6)))


def test_1_the_warm_up_needs_both_answers_and_steps():
    few, early, ready = (Lows(0.5, least=least, steps=steps) for least, steps in ((4, 1), (1, 5), (3, 1)))
    for queue in (few, early, ready):
        for value in (3.0, 1.0, 2.0):
            queue.tell(value)
        assert queue.bound == -math.inf and queue.values == [], "what a step tells enters when it is done"
        queue.observe(Progress(), {})
    assert few.bound == early.bound == -math.inf and ready.bound == 2.0
    assert Lows(0.0, least=1, steps=0).bound == -math.inf and ready.figures() == {"lows.seen": 3.0, "lows.bound": 2.0}


def brute(d, bound, window, runs, exempt, stride=1):
    """The definition: the first run of that many low windows, at or behind the exempt start."""
    ends = list(range(window - 1, len(d), stride))
    low = {t: np.mean(d[t - window + 1 : t + 1]) < bound and t >= exempt for t in ends}
    for place in range(len(ends) - runs + 1):
        some = ends[place : place + runs]
        before = ends[place - 1] if place else None
        if all(low[t] for t in some) and not (before is not None and low[before]):
            return max(some[0] - window + 1, exempt)
    return None


def online(d, bound, window, runs, exempt):
    """The rule with constant memory: a ring of the last values, their sum and a counter."""
    ring, total, count, first, means = deque(), 0.0, 0, 0, []
    cut = None
    for t, value in enumerate(d):
        ring.append(value)
        total += value
        if len(ring) > window:
            total -= ring.popleft()
        if t < window - 1:
            continue
        means.append(total / window)
        low = means[-1] < bound and t >= exempt
        first = t if low and not count else first
        count = count + 1 if low else 0
        if count >= runs and cut is None:
            cut = max(first - window + 1, exempt)
    return cut, means


def test_2_the_worked_case_is_cut_at_297():
    d = [1.0] * 300 + [0.0] * 500
    rule = Settled(lows([0.05]), 64, 4, 0)
    assert rule(d) == 297 == brute(d, 0.05, 64, 4, 0) == online(d, 0.05, 64, 4, 0)[0]
    assert rule(d[:363]) is None and rule(d[:364]) == 297, "the fourth window ends at 363"


def test_2_the_definition_the_ring_and_the_convolution_agree():
    draw = random.Random(0)
    for case in range(300):
        window, runs, exempt = draw.randint(1, 6), draw.randint(1, 4), draw.randint(0, 10)
        d = [draw.choice((0.0, 0.5, 1.0)) * draw.random() for _ in range(draw.randint(0, 60))]
        bound = draw.random() * 0.6
        keep, least = Settled(lows(), window, runs, exempt).scan(d, bound)
        cut, means = online(d, bound, window, runs, exempt)
        assert keep == brute(d, bound, window, runs, exempt) == cut, case
        if d and len(d) >= window:
            assert np.allclose(means, np.convolve(d, np.ones(window) / window, "valid"), atol=1e-12)
            assert keep is not None or least == pytest.approx(min(means))
        for stride in (2, window):
            assert Settled(lows(), window, runs, exempt, stride).scan(d, bound)[0] == brute(d, bound, window, runs, exempt, stride)


def test_2_the_exempt_start_is_never_cut_and_equal_loops_count_as_low():
    d = [0.0] * 50
    assert Settled(lows([0.5]), 4, 2, 20)(d) == 20 and Settled(lows([0.5]), 4, 2, 60)(d) is None
    assert Settled(lows([0.1]), 4, 2, 0)([0.1] * 20) == 0, "equal up to rounding is low"
    assert Settled(lows(), 4, 2, 0)(d) is None


def test_3_dips_that_are_too_short_never_stop_an_answer():
    dip = [1.0] * 20 + [0.0] * 10 + [1.0] * 20
    rule = Settled(lows([0.05]), 8, 4, 0)
    assert rule(dip * 5) is None and rule([*dip, *[0.0] * 12]) == 50
    assert Settled(lows([0.05]), 8, 3, 0)(dip) == 20


def rows_with(world, rows, keep):
    """The rows cut to some tokens, as the step cuts them."""
    out = []
    for row, kept in zip(rows, keep, strict=True):
        answer = row.pieces[-1]
        notes = {n: v[:kept] for n, v in answer.notes.items()}
        out.append(replace(row, pieces=(*row.pieces[:-1], replace(answer, ids=answer.ids[:kept], notes=notes, stop=SETTLED))))
    return out


def test_4_tokens_behind_the_cut_move_nothing_and_are_not_counted(world):
    rows, keep = rollouts(world), [2, 1, 3, 2, 4]
    made = stage("kat", max_tokens=6).updates[0]
    got, told = world.gradients(made, rows=rows_with(world, rows, keep))
    mask = replace(made, objective=(replace(made.objective[0], weight=Constant(1.0)),))
    whole, full = world.gradients(mask, rows=rows)
    assert told.tallies["kl"].count == sum(keep) < full.tallies["kl"].count and worst(got, whole) > 1e-3
    with torch.no_grad():
        ctx = context(world, rows)
        values, units = ctx(made.objective[0].loss), ctx.batch.units["tokens"]
        kept = torch.tensor([int(t) < keep[int(r)] for r, t in zip(units.row, units.time, strict=True)])
    assert told.loss == pytest.approx(float(values[kept].mean()), rel=1e-5)


@pytest.mark.parametrize("chat", [True, False])
def test_4_a_stretch_goes_on_from_the_exact_ids(world, chat):
    row = world.records[1].without_answer()
    if not chat:
        row = replace(row, pieces=(replace(row.pieces[0], role="text"),))
    seen = []

    class Listens(Ask):
        def __call__(self, records, ws):
            for record in records:
                seen.append(prompt_ids(record, world.tokenizer))
                yield from super().__call__(iter([record]), ws)

    step = Stretches(Listens("student", max_tokens=3), Note("gap", Match(kl_reverse)), Settled(lows()), 8)
    (done,) = list(run_steps((step,), [row], world.ws.within("t")))
    answer, start = done.pieces[-1], prompt_ids(row, world.tokenizer)
    assert seen == [start + list(answer.ids[:n]) for n in (0, 3, 6)] and len(answer.ids) == 8 and answer.stop == "length"
    assert {n: len(v) for n, v in answer.notes.items()} == {"log_prob": 8, "drawn": 8, "gap": 8}
    assert len(done.pieces) == len(row.pieces) + 1 and answer.content == world.tokenizer.decode(answer.ids, skip_special_tokens=True)
    with torch.no_grad():
        ctx = context(world, [done])
        assert torch.allclose(ctx(Match(kl_reverse)), torch.tensor(answer.notes["gap"]), atol=1e-5)


def written(world, bound, most=40, rows=None):
    rule = Settled(lows([bound] if bound is not None else []), 3, 2, 5)
    step = Stretches(Ask("student", max_tokens=4), Note("gap", Match(kl_reverse)), rule, most)
    ws = world.ws.within("t")
    return list(run_steps((step,), rows or [r.without_answer() for r in world.records], ws)), rule


def test_4_what_is_cut_as_it_is_written_is_what_would_be_cut_afterwards_and_the_rest_is_never_written(world):
    whole, _ = written(world, None)
    gaps = sorted(g for r in whole for g in r.pieces[-1].notes["gap"])
    bound = gaps[int(0.45 * len(gaps))]
    before = world.ws.ledger.state_dict()["student/sample"]["tokens"]
    short, rule = written(world, bound)
    num_written = world.ws.ledger.state_dict()["student/sample"]["tokens"] - before
    cut = 0
    for full, row in zip(whole, short, strict=True):
        keep = rule(full.pieces[-1].notes["gap"])
        assert row.pieces[-1].ids == full.pieces[-1].ids[:keep] and (row.pieces[-1].stop == SETTLED) == (keep is not None)
        assert row.pieces[-1].notes["gap"] == pytest.approx(full.pieces[-1].notes["gap"][:keep], abs=1e-5)
        cut += keep is not None
    assert cut and num_written < sum(len(r.pieces[-1].ids) for r in whole), "what follows the cut is not written"
    assert world.ws.ledger.state_dict()["stretches/stopped"]["calls"] == cut


def test_5_the_queue_holds_the_last_values_and_short_answers_tell_nothing():
    queue = lows()
    for n in range(5000):
        queue.tell(float(n))
    queue.observe(Progress(), {})
    assert queue.values == [float(n) for n in range(904, 5000)]
    rule = Settled(lows(), 8, 1, 0)
    rule.learn([1.0] * 7)
    rule.learn([1.0] * 20)
    rule.learn([1.0, 5.0] * 8)
    rule.lows.observe(Progress(), {})
    assert rule.lows.values == [1.0, 3.0], "the least mean of the answer, not its mean over all"


@pytest.mark.parametrize("flagged", [0.1, 0.3, 0.7])
def test_5_about_the_flagged_share_of_new_answers_is_stopped(flagged):
    g = np.random.default_rng(0)
    rule = Settled(lows(share=flagged, size=4000), 5, 1, 0)
    for _ in range(4000):
        rule.learn(g.exponential(size=30))
    assert rule.lows.bound == -math.inf
    rule.lows.observe(Progress(), {})
    num = sum(rule(g.exponential(size=30)) is not None for _ in range(1000))
    assert abs(num / 1000 - flagged) < 4 * math.sqrt(flagged * (1 - flagged) / 1000) + 0.01


def test_5_a_cut_answer_tells_its_least_mean_until_it_was_stopped():
    rule = Settled(lows([0.5]), 2, 2, 0)
    rule.learn([1.0, 1.0, 0.4, 0.4, 0.4, 0.0, 0.0])
    rule.lows.observe(Progress(), {})
    assert rule.lows.values == pytest.approx([0.5, 0.4])


def test_5_the_queue_is_saved_and_found_in_the_recipe_and_joined_from_processes():
    made = stage("kat")
    assert [type(m).__name__ for m in memories(made).values()].count("Lows") == 1
    queue, other = lows([3.0, 1.0]), Lows(0.3, least=1, steps=0)
    queue.tell(9.0)
    other.load_state_dict(queue.state_dict())
    queue.observe(Progress(), {})
    other.observe(Progress(), {})
    assert other.values == queue.values == [3.0, 1.0, 9.0] and other.bound == queue.bound
    states = [{"values": [1.0, 2.0, 3.0], "new": [], "done": 4}, {"values": [7.0], "new": [], "done": 4}]
    assert lows(size=3).joined(states)["values"] == [7.0, 2.0, 3.0]


def test_6_the_top_64_and_the_rest_are_close_below_the_whole_and_without_the_rest_they_are_not(setting):
    g = torch.Generator().manual_seed(0)
    q, p = (6 * torch.randn(200, 600, generator=g, dtype=torch.float64) for _ in range(2))
    q, p = q.log_softmax(-1), (q + 0.5 * torch.randn(200, 600, generator=g, dtype=torch.float64)).log_softmax(-1)
    whole = kl_reverse(q, p)
    tail = kl_reverse(*Top(64, of="student")(q, p))
    assert bool((tail <= whole + 1e-12).all()) and float(((whole - tail) / whole).mean()) < 0.05
    partial = kl_reverse(*Top(64, of="student", rest="drop")(q, p))
    assert bool((partial > whole).any()) or bool((partial < 0).any()), "a partial sum bounds nothing"
    look = stage("kat").source.steps[0].look
    assert look.signal == Match(kl_reverse, on=Top(64, of="student"))


def test_the_gradient_does_not_depend_on_micro_batches(world):
    rows = rows_with(world, rollouts(world), [2, 1, 3, 2, 4])
    made = stage("kat").updates[0]
    want, told = world.gradients(made, rows=rows)
    for how in ({"size": 2}, {"size": 2, "pack": True}, {"padding": "left"}):
        got, seen = world.gradients(made, rows=rows, **how)
        assert worst(got, want) < 5e-6 and seen.loss == pytest.approx(told.loss, rel=1e-5)
    assert isinstance(made, Update) and isinstance(made.objective[0], Term)


def test_an_answer_that_ends_by_itself_is_not_gone_on_with(world):
    class Ends(Ask):
        def __call__(self, records, ws):
            for row in super().__call__(records, ws):
                stop = "eos" if row.id == "c" else "length"
                yield replace(row, pieces=(*row.pieces[:-1], replace(row.pieces[-1], stop=stop)))

    rule = Settled(lows(), 3, 2, 5)
    step = Stretches(Ends("student", max_tokens=4), Note("gap", Match(kl_reverse)), rule, 10)
    done = list(run_steps((step,), [r.without_answer() for r in world.records], world.ws.within("t")))
    assert {r.id: len(r.pieces[-1].ids) for r in done} == {"a": 10, "b": 10, "c": 4, "d": 10, "e": 10}
    assert len(rule.lows._new) == 5, "each answer tells once"


def test_a_killed_run_goes_on_with_its_queue(new_run, forks):
    train = {"steps": 6, "batch_size": 3, "max_length": 96, "learning_rate": 3e-3, "checkpoint_seconds": 1e-9}
    how = {"flagged": 0.7, "window": 2, "runs": 1, "exempt": 1, "least": 3, "warmup_steps": 1, "stretch": 3, "max_tokens": 8}
    whole, killed = (new_run(folder, recipe="kat", args=how, train=train) for folder in ("whole", "killed"))
    assert forks(whole)["code"] == 0 and forks(killed, kill="train 4")["code"] == -9
    told = forks(killed)
    assert told["code"] == 0, told["said"]

    def rows(table):
        lines = (Path(table["output"]) / table["name"] / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in ("time", "tokens_per_second")} for line in lines]

    assert rows(killed) == rows(whole) and rows(whole)[-1]["lows.seen"] == 18 and "lows.bound" in rows(whole)[-1]


def test_settings_are_checked():
    for wrong in ({"flagged": 1.0}, {"window": 0}, {"runs": 0}, {"exempt": -1}, {"stride": 0}, {"stretch": 0}, {"least": 9000}, {"max_tokens": 0}):
        with pytest.raises(SettingError):
            kat(**wrong)
    with pytest.raises(SettingError, match="Stretches"):
        Stretches(Ask("student"), Note("gap", GroupNorm(Constant(1.0))), Settled(lows()), 4)
