"""DASD by entropy, check by check of its card; check 7 is tests/behaviour/test_dasd_entropy.py."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core.errors import SettingError
from tutelage.core.signal import Noted, Still
from tutelage.core.term import Term, Update
from tutelage.recipes.dasd_entropy import dasd_entropy
from tutelage.signals.policy import Clipped, ScoreFunction
from tutelage.signals.pools import GroupNorm, RowQuantile
from tutelage.signals.readouts import LogProb

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, Fixed = (KIT[n] for n in ("world", "worst", "setting", "stage", "Fixed"))
rollouts, context, limit, step, same = (KIT[n] for n in ("rollouts", "context", "limit", "step", "same"))
RIGHT = Noted("right", "rows")
GRPO = Update((Term("policy", Clipped(GroupNorm(RIGHT, epsilon=1e-6), Still(LogProb()))),))


def made(**arguments):
    return stage("dasd_entropy", max_tokens=6, **arguments)


def take(world, stage, **how):
    how = {"voices": stage.voices, "views": stage.views, **how}
    return world.gradients(stage.updates[0], **how)


@limit("dasd_entropy", "beta=0: rlad_trrd with alpha=1 and anchor_scale=0, which is GRPO.")
def test_1_without_direction_it_is_grpo(world):
    rows = rollouts(world)
    want, _ = world.gradients(GRPO, rows=rows)
    assert worst(take(world, made(beta=0.0), rows=rows)[0], want) < 1e-6
    assert worst(take(world, made(), rows=rows)[0], want) > 1e-3
    other = KIT["stage"]("rlad_trrd", alpha=1.0, anchor_scale=0.0, reuse=1)
    assert worst(world.gradients(other.updates[0], rows=rows)[0], want) < 1e-6


def test_1_nothing_told_is_grpo_again(world):
    rows, empty = rollouts(world), replace(made(), views={"informed": lambda record: record})
    want, _ = world.gradients(GRPO, rows=rows)
    got, told = take(world, empty, rows=rows)
    assert worst(got, want) < 1e-6 and torch.isfinite(torch.tensor(told.loss))


def advantage_of(stage):
    return stage.updates[0].objective[0].loss.advantage


def direction_of(stage):
    """The factor that points towards or away: tanh times the gate."""
    return dict(stage.updates[0].watch)["away"].of


def noted(setting, entropy, told, old=-2.0, **arguments):
    """A context whose entropies and log-probabilities are given, and the recipe's stage that reads them as notes."""
    s = setting(num_units=len(entropy), num_rows=1)
    s.batch.units["tokens"].row.zero_()
    numbers = {"entropy": entropy, "told": told, "old": [old] * len(entropy)}
    s.batch.notes.update({f"tokens.{n}": torch.tensor(v, dtype=torch.float64) for n, v in numbers.items()})
    s.batch.notes["rows.right"] = torch.ones(1, dtype=torch.float64)
    return s.context(), made(reuse=2, **arguments)


def test_2_sure_tokens_are_attracted_forks_repelled_and_the_boundary_is_0(setting):
    entropy = [0.1, 0.2, 1.0, 1.0, 3.0]
    ctx, stage = noted(setting, entropy, [-1.0] * 5, share=0.5)
    direction = ctx(direction_of(stage))
    assert direction[0] > 0 and direction[1] > 0 and direction[4] < 0 and abs(float(direction[2])) < 1e-7
    ctx, other = noted(setting, entropy, [-1.0] * 5, share=0.2, boundary="rho")
    assert int((ctx(direction_of(other)) < 0).sum()) > int((direction < 0).sum()), "the other reading repels most tokens"


def test_3_it_is_bounded_and_knows_no_scale(setting):
    entropy, told = [0.1, 0.4, 1.0, 2.0, 3.0], [-1.0, -4.0, -2.5, -0.5, -2.0]
    ctx, stage = noted(setting, entropy, told)
    direction, advantage = ctx(direction_of(stage)), ctx(advantage_of(stage))
    assert float(direction.abs().max()) < 1
    ctx, stage = noted(setting, [3 * h + 7 for h in entropy], told)
    assert torch.allclose(ctx(direction_of(stage)), direction, atol=1e-5)
    ctx, stage = noted(setting, entropy, [-2.0 + 5 * (t + 2.0) for t in told])
    assert torch.allclose(ctx(advantage_of(stage)), advantage, atol=1e-5)


def test_4_other_rows_and_padding_do_not_reach_an_answers_boundary(world):
    stage, rows = made(), rollouts(world)
    alone, every = (context(world, some, stage.views, stage.voices) for some in (rows[4:], rows))
    with torch.no_grad():
        one, all_ = alone(direction_of(stage)), every(direction_of(stage))
    assert torch.allclose(one, all_[-len(one) :], atol=1e-5)
    want, _ = take(world, stage, rows=rows)
    for how in ({"padding": "left"}, {"size": 2}, {"pack": True}):
        assert worst(take(world, stage, rows=rows, **how)[0], want) < 2e-5


def test_4_quantiles_of_rows_equal_torch(setting):
    s = setting(num_units=13)
    s.batch.notes["tokens.x"] = torch.randn(13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    row, x = s.batch.units["tokens"].row, s.batch.notes["tokens.x"]
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        got = s.context()(RowQuantile(Noted("x"), share))
        for r in range(4):
            own = x[row == r]
            assert float(got[r]) == pytest.approx(float(own.quantile(share)) if len(own) else 0.0, abs=1e-12)
    with pytest.raises(SettingError):
        RowQuantile(Noted("x"), 1.5)


def test_5_attraction_everywhere_adds_the_sampled_gradient_towards_the_informed_self(world):
    stage, rows = made(uniform=1.0, beta=0.3), rollouts(world)
    got, _ = take(world, stage, rows=rows)
    ctx = context(world, rows, stage.views, stage.voices)
    from tutelage.core.signal import Read

    gap = LogProb(Read("informed")) - LogProb()
    with torch.no_grad():
        mean = {r: float(ctx(gap)[ctx.batch.units["tokens"].row == r].abs().mean()) for r in range(5)}
    noted = [replace(r, notes={**r.notes, "unit": 1 / (mean[i] + 1e-6)}) for i, r in enumerate(rows)]
    both = Clipped(GroupNorm(RIGHT, epsilon=1e-6), Still(LogProb())) + 0.3 * Noted("unit", "rows") * ScoreFunction(gap)
    want, _ = world.gradients(Update((Term("policy", both),)), rows=noted, voices=stage.voices, views=stage.views)
    assert worst(got, want) < 5e-6


def test_6_only_the_sampled_log_probability_carries_a_gradient(world):
    ctx = context(world, rollouts(world), made().views, made().voices)
    ctx._grad = True
    with torch.enable_grad():
        assert not ctx(Still(advantage_of(made()))).requires_grad


def test_settings_are_checked():
    for wrong in ({"beta": -0.1}, {"share": 0.0}, {"share": 1.0}, {"rollouts": 1}, {"uniform": 0.5}):
        with pytest.raises(SettingError, match="dasd_entropy"):
            dasd_entropy(**wrong)
