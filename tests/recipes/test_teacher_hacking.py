"""Teacher hacking, check by check of its card; checks 5 and 6 are tests/behaviour/test_teacher_hacking.py."""

from __future__ import annotations

import copy
import math
import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core.catalog import build
from tutelage.core.errors import SettingError, UnknownName
from tutelage.core.recipe import Change, Generate, Train
from tutelage.core.schedule import Progress, memories
from tutelage.core.signal import Read
from tutelage.data.gauge import Gauge, Gauges
from tutelage.data.pipeline import run_steps
from tutelage.data.source import Corpus
from tutelage.data.steps.every import Every
from tutelage.evaluation.metrics.hacking import Hacking, hacking_index, power_law
from tutelage.recipes.teacher_hacking import teacher_hacking
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, limit, trains, step, same = (KIT[n] for n in ("world", "limit", "trains", "step", "same"))


def prepared(world, *, same_teacher=False):
    """The world with the teacher's slot, and text of every writer that the last stage and its gauges read."""
    ws = world.ws
    ws.models["taught"] = ws.models["teacher"] if same_teacher else copy.deepcopy(ws.models["teacher"])
    if not same_teacher:
        with torch.no_grad():
            for parameter in ws.models["taught"].model.parameters():
                parameter.mul_(1.2)
    held = [world.row(f"h{i}", f"Held {i}", "x") for i in range(3)]
    for stage in teacher_hacking(max_tokens=5).stages:
        if isinstance(stage, Generate):
            ws.data[stage.into] = list(run_steps(stage.steps, held if stage.over == "held_out" else world.records, ws.within(stage.name)))
    return world


def last(**arguments) -> Train:
    return trains("teacher_hacking", max_tokens=5, **arguments)[-1]


def hacking_of(stage) -> Hacking:
    (found,) = (m for m in memories(stage).values() if isinstance(m, Hacking))
    return found


@pytest.mark.parametrize("writer", ["once", "teacher", "student"])
def test_1_where_the_teacher_is_the_oracle_both_distances_are_one_and_nothing_is_hacked(world, writer):
    prepared(world, same_teacher=True)
    world.ws.data["taught_held"] = world.ws.data["oracle_held"]
    world.ws.data["train"] = world.records
    stage = last(writer=writer, every=1)
    hacking = hacking_of(stage)
    for number in range(3):
        stage.source.draw(Progress("distil", number, 3), world.ws.within("distil", number), 2)
        with torch.no_grad():
            for parameter in world.ws.models["student"].model.parameters():
                parameter.mul_(1.1)
    assert len(hacking.points) == 3 and all(g == pytest.approx(p, rel=1e-6) for _, g, p in hacking.points)
    assert len({g for _, g, _ in hacking.points}) == 3 and hacking.index == 1.0


def test_2_distances_a_position_summed_over_the_text_are_the_exact_sequence_kl_and_vary_less_than_log_ratios():
    g = torch.Generator().manual_seed(0)
    p, q = (torch.randn(4, 3, generator=g, dtype=torch.float64).log_softmax(-1) for _ in range(2))  # row: the symbol before; 3 begins
    exact = 0.0
    for a in range(3):
        for b in range(3):
            for c in range(3):
                steps = ((3, a), (a, b), (b, c))
                log_p, log_q = (sum(float(m[i, j]) for i, j in steps) for m in (p, q))
                exact += math.exp(log_p) * (log_p - log_q)
    num, before, full, ratio = 4000, torch.full((4000,), 3), torch.zeros(4000, dtype=torch.float64), torch.zeros(4000, dtype=torch.float64)
    for _ in range(3):
        full = full + kl_forward(q[before], p[before])
        now = torch.multinomial(p[before].exp(), 1, generator=g).squeeze(1)
        ratio = ratio + p[before, now] - q[before, now]
        before = now
    for estimate in (full, ratio):
        assert abs(float(estimate.mean()) - exact) < 3 * float(estimate.std()) / num**0.5
    assert float(full.var()) < 0.5 * float(ratio.var())


def test_2_the_recipes_gauges_are_means_of_full_vocabulary_distances_on_the_right_text(world):
    prepared(world)
    stage = last()
    golden, proxy = stage.source.gauge.of
    for gauge, text, teacher in ((golden, "oracle_held", "teacher"), (proxy, "taught_held", "taught")):
        assert gauge.measures == (text,)
        want = Gauge(Match(kl_forward, p=Read(teacher)), (Corpus(text),), batch_size=1)(world.ws)[text]
        assert gauge(world.ws)[text] == pytest.approx(want, rel=1e-5) and want > 0
        assert {r.pieces[-1].author for r in world.ws.data[text]} == {teacher}


def drawn(stage, world, steps, size):
    """The answers' ids of each step."""
    world.ws.data["train"] = world.records
    progress = [Progress("distil", number, 50) for number in range(steps)]
    return [frozenset((r.id, r.pieces[-1].ids) for r in stage.source.draw(at, world.ws.within("distil", at.step), size)) for at in progress]


def test_3_text_written_once_is_the_same_in_every_epoch_and_text_written_anew_never_repeats(world):
    prepared(world)
    num = len(world.ws.data["taught_text"])
    epochs = drawn(last(every=1000), world, 3, num)
    assert epochs[0] == epochs[1] == epochs[2]
    for writer, author in (("teacher", "taught"), ("student", "student")):
        stage = last(writer=writer, every=1000)
        rounds = drawn(stage, world, 3, len(world.records))
        assert not rounds[0] & rounds[1] and not rounds[1] & rounds[2]
        rows = stage.source.draw(Progress("distil", 9, 50), world.ws.within("distil", 9), 2)
        assert {r.pieces[-1].author for r in rows} == {author}


@pytest.mark.parametrize("fewer", [1, 2, 4])
def test_3_fewer_prompts_are_answered_so_much_oftener_that_the_rows_stay_as_many(world, fewer):
    prompts = [world.row(f"p{i}", f"Prompt {i}", "x") for i in range(12)]
    world.ws.models["taught"] = world.ws.models["teacher"]
    (write,) = (s for s in teacher_hacking(fewer=fewer, max_tokens=3).stages if getattr(s, "into", "") == "taught_text")
    rows = list(run_steps(write.steps, prompts, world.ws))
    assert len(rows) == 12 and len({r.pieces[0].content for r in rows}) == 12 // fewer
    with pytest.raises(SettingError, match="n"):
        Every(0)
    with pytest.raises(SettingError, match="each over data sets of its own"):
        Gauges((Gauge(Match(kl_forward), (Corpus("a"),)),) * 2)


GRID = [50 * 1.15**k for k in range(30)]


def curve(*, plateau=False, kink=False, noise=0.01, exponent=0.5, seed=0):
    wobble = (noise * torch.randn(len(GRID), generator=torch.Generator().manual_seed(seed))).tolist()
    edge = GRID[12]
    values = []
    for at, w in zip(GRID, wobble, strict=True):
        slope = at**-exponent
        slope = max(slope, edge**-exponent) if plateau else slope
        slope = edge**-exponent * (at / edge) ** -1.5 if kink and at > edge else slope
        values.append(slope * math.exp(w))
    return values


@pytest.mark.parametrize("seed", range(10))
def test_4_a_power_law_is_not_flagged_and_one_that_breaks_off_is(seed):
    fit = power_law(GRID, curve(seed=seed))
    assert fit.left_at is None and fit.slope == pytest.approx(0.5, abs=0.05) and fit.level == pytest.approx(0, abs=0.3)
    for broken in (curve(plateau=True, seed=seed), curve(kink=True, seed=seed)):
        left = power_law(GRID, broken).left_at
        assert left is not None and GRID[12] <= left <= GRID[25]


def test_4_the_fit_is_least_squares_and_bad_curves_are_refused():
    exact = power_law(GRID, [3 * s**-0.7 for s in GRID])
    assert exact.slope == pytest.approx(0.7) and exact.level == pytest.approx(math.log(3)) and exact.left_at is None
    for arguments in ((GRID, GRID[:-1]), ([0.0, 1.0], [1.0, 1.0]), ([1.0, 2.0], [1.0, -1.0]), ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])):
        with pytest.raises(SettingError, match="power_law"):
            power_law(*arguments)


def test_the_index_needs_a_proxy_that_falls():
    assert hacking_index([1.0, 0.5, 0.8], [1.0, 0.6, 0.4]) == pytest.approx(1.6)
    assert hacking_index([1.0, 0.5, 0.8], [1.0, 0.4, 0.5]) == 1.0, "both rise: overfitting"
    assert hacking_index([1.0, 0.5, 0.4], [1.0, 0.6, 0.4]) == 1.0
    with pytest.raises(SettingError, match="one of each"):
        hacking_index([1.0], [])


def test_the_run_says_once_that_the_teacher_is_hacked_and_goes_on_from_its_state():
    made = Hacking("g", "p")
    said = []
    for number, (golden, proxy) in enumerate([(1.0, 1.0), (0.5, 0.6), (0.55, 0.5), (0.7, 0.4), (0.9, 0.3)]):
        at = Progress("distil", number, 9)
        made.observe(at, {"g": golden})
        made.observe(at, {"p": proxy, "kl": 3.0})
        said += made(at, (), {})
    assert len(said) == 1 and "Step 4" in said[0] and "1.40" in said[0]
    assert made.figures() == pytest.approx({"hacking": 1.8, "golden": 0.9, "proxy": 0.3})
    other = Hacking("g", "p")
    other.load_state_dict(made.state_dict())
    assert other.points == made.points and other(Progress("distil", 5, 9), (), {}) == ()
    other.reset()
    assert other.points == [] and other.index == 1.0
    with pytest.raises(SettingError, match="above"):
        Hacking("g", "p", 0.5)


def test_oracle_teacher_and_student_have_slots_of_their_own_and_learn_in_order():
    stages = teacher_hacking().stages
    assert [s.name for s in stages if isinstance(s, Train)] == ["teach", "start", "distil"]
    assert [s.updates[0].moves for s in stages if isinstance(s, Train)] == [("taught",), ("student",), ("student",)]
    (copied,) = (s for s in stages if isinstance(s, Change))
    assert (copied.into, copied.by.slot) == ("taught", "student")
    wrote = {s.into: (s.steps[-1].who, s.over) for s in stages if isinstance(s, Generate)}
    assert wrote == {"oracle_text": ("teacher", "train"), "oracle_held": ("teacher", "held_out"),
                     "taught_held": ("taught", "held_out"), "taught_text": ("taught", "train")}  # fmt: skip


@limit("teacher_hacking", "writer=once, fewer=1: the last stage is forward_kl on the teacher's text.")
def test_on_text_written_once(step, world):
    prepared(world)
    one = step(last(every=1000))
    world.ws.models["teacher"] = world.ws.models["taught"]
    same(one, step(on(world)))


def on(world):
    """forward_kl with the teacher's text for the data."""
    world.ws.data["train"] = world.ws.data["taught_text"]
    (stage,) = trains("forward_kl")
    return stage


@limit("teacher_hacking", "writer=student, beta=1: the last stage is opd.")
def test_on_the_students_text(step, world):
    prepared(world)
    one = step(last(writer="student", beta=1.0, every=1000))
    world.ws.models["teacher"] = world.ws.models["taught"]
    same(one, step(trains("opd", max_tokens=5)[0]))


def test_impossible_settings_are_refused():
    with pytest.raises(UnknownName, match="writer"):
        build("teacher_hacking", {"writer": "teachr"})
    for arguments in ({"fewer": 0}, {"fewer": 3}, {"fewer": 2, "writer": "student"}, {"beta": 2.0}, {"above": 0.5}, {"every": 0}):
        with pytest.raises(SettingError):
            build("teacher_hacking", arguments)
