"""SOD, check by check of its card; check 7 is tests/behaviour/test_sod.py."""

from __future__ import annotations

import itertools
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tutelage
from tutelage.core.errors import DataError, SettingError, UnknownName
from tutelage.core.record import Piece, Record
from tutelage.core.signal import Noted, Still
from tutelage.core.term import Term, Update
from tutelage.data.collate import Collate
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.turns import Turns
from tutelage.recipes.sod import sod
from tutelage.signals.parts import PartMean, PartSum
from tutelage.signals.policy import Clipped, ScoreFunction
from tutelage.signals.pools import GroupNorm
from tutelage.signals.readouts import LogProb, gap
from tutelage.signals.tools import Interpreter, find

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage = (KIT[n] for n in ("world", "worst", "setting", "stage"))
rollouts, context, limit = KIT["rollouts"], KIT["context"], KIT["limit"]
teacher_folder, data_folder, new_run = (KIT[n] for n in ("teacher_folder", "data_folder", "new_run"))
RIGHT = Noted("right", "rows")
GRPO = Clipped(GroupNorm(RIGHT, epsilon=1e-6), Still(LogProb()), 0.2, 0.28)


def update(**arguments) -> Update:
    return stage("sod", max_tokens=6, **arguments).updates[0]


def weight_of(update):
    return dict(update.watch)["turn weight"]


def test_1_in_a_single_turn_it_is_grpo_and_plain_distillation(world):
    rows = rollouts(world)
    want, _ = world.gradients(Update((Term("policy", GRPO + ScoreFunction(gap())),)), rows=rows)
    got, told = world.gradients(update(), rows=rows)
    assert worst(got, want) < 5e-6 and told.tallies["turn weight"].mean == 1


@limit("sod", "scale=0 and one turn: rlad_trrd with alpha=1 and anchor_scale=0, which is GRPO.")
def test_6_without_distillation_it_is_grpo(world):
    rows = rollouts(world)
    want, _ = world.gradients(stage("rlad_trrd", alpha=1.0, anchor_scale=0.0, reuse=1).updates[0], rows=rows)
    assert worst(world.gradients(update(scale=0.0), rows=rows)[0], want) < 1e-6


def weights(setting, gaps, lengths=None, **arguments):
    """Turn weights of one row whose turns have given gaps at each of their tokens."""
    lengths = lengths or [2] * len(gaps)
    total = sum(lengths)
    s = setting(num_units=total, num_rows=1)
    units = s.batch.units["tokens"]
    units.row.zero_()
    home = torch.tensor([turn for turn, n in enumerate(lengths) for _ in range(n)])
    tokens = replace(units, part_of={"turns": home}, time=torch.arange(total))
    turns = type(units)(torch.zeros(len(gaps), dtype=torch.long), torch.arange(len(gaps)))
    batch = replace(s.batch, units={**s.batch.units, "tokens": tokens, "turns": turns})
    signs = torch.tensor([(-1.0) ** i for i in range(total)], dtype=torch.float64)  # a mean of signed gaps would cancel
    values = torch.tensor([gaps[t] for t in home.tolist()], dtype=torch.float64) * signs
    batch.notes.update({"tokens.old": torch.zeros(total, dtype=torch.float64), "tokens.taught": values})
    ctx = s.context()
    ctx.batch = batch
    return ctx(weight_of(update(reuse=2, **arguments))).tolist()


def test_2_equal_gaps_weigh_1(setting):
    for delta in (0.0, 0.5):
        assert weights(setting, [0.7, 0.7, 0.7], delta=delta) == pytest.approx([1, 1, 1])


def test_3_drift_weighs_less_and_only_what_comes_out_is_capped(setting):
    assert weights(setting, [1.0, 2.0, 4.0]) == pytest.approx([1, 0.5, 0.25], rel=1e-5)
    assert weights(setting, [1.0, 0.5]) == pytest.approx([1, 1.2])
    assert weights(setting, [1.0, 0.1, 1.0]) == pytest.approx([1, 1.2, 1])


def test_4_the_ratio_to_the_first_turn_is_the_product_of_the_steps(setting):
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        gaps = (torch.rand(5, generator=g) + 0.1).tolist()
        lengths = torch.randint(1, 4, (5,), generator=g).tolist()
        product, want = 1.0, [1.0]
        for a, b in itertools.pairwise(gaps):
            product *= (a + 1e-6) / (b + 1e-6)
            want.append(min(product, 1.2))
        assert weights(setting, gaps, lengths) == pytest.approx(want, rel=1e-5)


def runs(flags):
    """The run that each 1 is in, by brute force."""
    out, number = [], -1
    for place, flag in enumerate(flags):
        if flag and (place == 0 or not flags[place - 1]):
            number += 1
        if flag:
            out.append(number)
    return out


@pytest.mark.parametrize("padding", ["left", "right"])
def test_4_turns_are_the_runs_of_trained_tokens(world, padding):
    def piece(ids, trains):
        return Piece("x", "text", part="answer" if trains else "observation", trains=trains, ids=ids)

    shapes = [(0, 1, 1, 0, 1, 0, 0, 1), (1, 0, 1), (0, 1), (0, 1, 1, 1), (0, 1, 0)]
    rows = [Record(f"r{i}", tuple(piece((5 + k, 6 + k)[: 1 + k % 2], bool(flag)) for k, flag in enumerate(shape))) for i, shape in enumerate(shapes)]
    batch = Collate(world.tokenizer, 64, padding=padding)(rows)
    tokens, turns = batch.units["tokens"], batch.units["turns"]
    for number, (row, shape) in enumerate(zip(rows, shapes, strict=True)):
        flags = [flag for piece_, flag in zip(row.pieces, shape, strict=True) for _ in piece_.ids]
        want = runs(flags)
        first = int(flags[0] == 1)  # nothing predicts a first token
        places = turns.time[tokens.part_of["turns"][tokens.row == number]].tolist()
        expected = want[first:]
        least = expected[0] if expected else 0
        assert places == [n - least for n in expected]
    assert len(turns) == sum(len(set(turns.time[turns.row == r].tolist())) for r in range(5))


def test_5_what_the_tool_said_changes_nothing_but_what_follows(world):
    """Observations are no units: nothing is compared there, and no gradient starts there."""
    rows = rollouts(world, reply="42")
    batch = Collate(world.tokenizer, 128)(rows)
    assert len(batch.units["tokens"]) == sum(2 + i for i in range(5)) and len(batch.units["turns"]) == 10
    want, told = world.gradients(update(), rows=rows)
    for how in ({"size": 2}, {"padding": "left"}, {"pack": True}):
        got, same = world.gradients(update(), rows=rows, **how)
        assert worst(got, want) < 5e-6 and same.loss == pytest.approx(told.loss, rel=1e-4)


def test_6_a_cap_of_0_teaches_in_the_first_turn_alone(world, setting):
    assert weights(setting, [1.0, 2.0, 0.3], delta=-1.0) == [1, 0, 0]


def test_means_over_turns_equal_a_loop(world):
    rows = rollouts(world, reply="42")
    ctx = context(world, rows)
    with torch.no_grad():
        values, home = ctx(gap()), ctx.batch.units["tokens"].part_of["turns"]
        for part, pool in ((PartSum, torch.sum), (PartMean, torch.mean)):
            got = ctx(part(gap(), "turns"))
            assert torch.allclose(got, torch.stack([pool(values[home == t]) for t in range(10)]), atol=1e-5)


class Counts:
    """Replies twice to each row, then has nothing to say."""

    def __init__(self):
        self.seen = []

    def __call__(self, record):
        answers = list(record.trained())
        self.seen.append((record.id, len(answers)))
        return f"turn {len(answers)}" if len(answers) < 3 else None


def test_turns_go_on_until_the_environment_has_nothing_to_say(world):
    world.ws.models["student"].inner.generation_config.eos_token_id = list(range(60))  # answers end by themselves
    tool = Counts()
    step = Turns(Ask("student", times=2, max_tokens=30), tool, most=5)
    rows = list(run_steps((step,), world.records[:3], world.ws.within("t")))
    again = list(run_steps((Turns(Ask("student", times=2, max_tokens=30), Counts(), most=5),), world.records[:3], world.ws.within("t")))
    assert rows == again and [r.id for r in rows] == [f"{r.id}#{k}" for r in world.records[:3] for k in range(2)]
    for row in rows:
        answers = list(row.trained())
        whole = [p.stop for p in answers]
        assert len(answers) == 3 or whole[-1] == "length"
        assert all(len(p.notes["log_prob"]) == len(p.ids) for p in answers)
        assert [p.content for p in row.pieces if p.part == "observation"] == [f"turn {n + 1}" for n in range(len(answers) - 1)]
    assert any(len(list(r.trained())) == 3 for r in rows)
    # what was written is what a model that reads the row is asked about: the writer's own log-probabilities
    ctx = context(world, rows)
    with torch.no_grad():
        assert torch.allclose(ctx(LogProb()), ctx.batch.notes["tokens.log_prob"], atol=1e-4)
    one = list(run_steps((Turns(Ask("student", max_tokens=30), Counts(), most=1),), world.records[:3], world.ws))
    assert all(len(list(r.trained())) == 1 for r in one)


def test_a_failing_environment_names_the_record(world):
    def breaks(record):
        raise ValueError("no such page")

    world.ws.models["student"].inner.generation_config.eos_token_id = list(range(262))
    with pytest.raises(DataError, match="no such page") as found:
        list(run_steps((Turns(Ask("student", max_tokens=4), breaks),), world.records[:1], world.ws))
    assert "'a'" in str(found.value)
    with pytest.raises(SettingError):
        Turns(Ask("student"), breaks, most=0)


def row(text):
    return Record("r", (Piece("q", "user"), Piece(text, "assistant", trains=True)))


def test_the_interpreter_runs_the_last_program_and_says_what_it_printed():
    tool = find("python")
    assert tool(row("no program")) is None
    assert tool(row("```python\nprint(1)\n```\nthen\n```python\nprint(6 * 7)\nprint('x')\n```")) == "42\nx\n"
    assert tool(row("```python\nx = 1\n```")) == "(nothing was printed)"
    assert tool(row("```python\nprint('a')\n1 / 0\n```")) == "a\n\nerror: ZeroDivisionError: division by zero"
    assert len(tool(row("```python\nprint('y' * 100000)\n```"))) == 2000
    from tutelage.signals.grades.sandbox import Limits

    assert Interpreter(Limits(wall_seconds=0.5, cpu_seconds=0.5))(row("```python\nwhile True: pass\n```")).startswith("error: ")
    with pytest.raises(UnknownName, match="python"):
        find("browser")


def test_a_run_with_a_tool_of_ones_own(new_run, tmp_path):
    tool = tmp_path / "echo.py"
    tool.write_text("def echo(record):\n    return 'go on' if len(list(record.trained())) < 2 else None\n")
    table = new_run(
        recipe="sod", args={"max_tokens": 4, "verifier": "exact", "tool": str(tool), "rollouts": 2},
        train={"steps": 2, "batch_size": 2, "max_length": 256},
    )  # fmt: skip
    assert tutelage.run(table).student.exists()


def test_settings_are_checked():
    for wrong in ({"scale": -1.0}, {"delta": -2.0}, {"rollouts": 1}, {"turns": 0}):
        with pytest.raises(SettingError):
            sod(**wrong)
