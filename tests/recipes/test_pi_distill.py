"""pi-Distill, check by check of its card; check 7 is tests/behaviour/test_pi_distill.py."""

from __future__ import annotations

import itertools
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core.context import Context
from tutelage.core.errors import DataError, SettingError
from tutelage.core.record import Record
from tutelage.core.scores import Dense
from tutelage.core.signal import Noted, Read
from tutelage.core.term import Term, Update
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.through import Through
from tutelage.data.views import Told
from tutelage.recipes.pi_distill import pi_distill
from tutelage.signals.policy import Clipped
from tutelage.signals.pools import GroupNorm
from tutelage.signals.readouts import LogProb
from tutelage.voices import Says

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, size = (KIT[n] for n in ("world", "worst", "setting", "stage", "size"))
rollouts, context, limit, Fixed = (KIT[n] for n in ("rollouts", "context", "limit", "Fixed"))
RIGHT = Noted("right", "rows")


def made(**arguments):
    return stage("pi_distill", max_tokens=6, **{"verifier": "exact", **arguments})


def take(world, stage, **how):
    how = {"voices": stage.voices, "views": stage.views, **how}
    return world.gradients(stage.updates[0], **how)


def old_log_probs(world, rows, view=None):
    """The rows with the writer's own log-probabilities, told or not."""
    views = {"told": view} if view else {}
    ctx = context(world, rows, views, {"told": Says("student", "told")} if view else {})
    with torch.no_grad():
        values = ctx(LogProb(Read("told" if view else "student")))
    row, out = ctx.batch.units["tokens"].row, []
    for i, record in enumerate(rows):
        own = tuple(values[row == i].tolist())
        answer = replace(record.pieces[-1], notes={"log_prob": own, "drawn": own})
        out.append(replace(record, pieces=(*record.pieces[:-1], answer)))
    return out


def test_1_nothing_told_is_grpo_for_any_share(world):
    rows = old_log_probs(world, rollouts(world))
    grpo = Update((Term("policy", Clipped(GroupNorm(RIGHT, epsilon=1e-6), Noted("log_prob"))),))
    want, _ = world.gradients(grpo, rows=rows)
    for share in (0.0, 0.5, 1.0):
        same = replace(made(teacher_share=share), views={"told": lambda record: record})
        assert worst(take(world, same, rows=rows)[0], want) < 5e-6


@limit("pi_distill", "teacher_share=0, beta=0 and nothing told: rlad_trrd with alpha=1 and anchor_scale=0, which is GRPO.")
def test_1_and_as_rlad_has_it(world):
    rows = old_log_probs(world, rollouts(world))
    same = replace(made(teacher_share=0.0, beta=0.0), views={"told": lambda record: record})
    other = stage("rlad_trrd", alpha=1.0, anchor_scale=0.0, reuse=1)
    want, _ = world.gradients(other.updates[0], rows=rows)
    assert worst(take(world, same, rows=rows)[0], want) < 5e-6


def test_2_each_end_of_the_share_trains_one_pass_alone(world):
    rows = old_log_probs(world, rollouts(world), Told())
    for share, mine, other in ((1.0, "told", "untold"), (0.0, "untold", "told")):
        full, half = made(teacher_share=share), made()
        alone = replace(half.updates[0], objective=tuple(t for t in full.updates[0].objective if t.name == mine))
        want, _ = world.gradients(alone, rows=rows, voices=half.voices, views=half.views)
        got, told = take(world, full, rows=rows)
        assert worst(got, want) < 5e-6 and told.tallies[other].count > 0, "the other one is still logged"


def test_3_each_term_moves_its_own_copy_alone(setting):
    s = setting()
    told = torch.randn(13, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    s.batch.notes["tokens.log_prob"] = s.batch.notes["tokens.old"]
    ctx = s.context(told=Fixed("student", {"next": Dense(told.log_softmax(-1))}))
    for term, moves in zip(made().updates[0].objective, (told, s.hidden), strict=True):
        grads = torch.autograd.grad(ctx(term.loss).sum(), (told, s.hidden), allow_unused=True)
        for tensor, grad in zip((told, s.hidden), grads, strict=True):
            assert (grad is not None and float(grad.abs().max()) > 0) == (tensor is moves)


def enumerated(logits, told):
    """Every answer of two of four symbols: log-probabilities of its tokens untold and told."""
    every = list(itertools.product(range(4), repeat=2))
    index = torch.tensor(every)
    q = logits.log_softmax(-1)  # [first 4] and [second 4 4]
    t = told.log_softmax(-1)
    pick = lambda x: torch.stack([x[0, index[:, 0]], x[1:][index[:, 0], index[:, 1]]], 1)
    return every, pick(q), pick(t)


def test_4_weighted_answers_of_the_told_self_are_unbiased_for_the_untold(setting):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=g, dtype=torch.float64).requires_grad_()
    told = torch.randn(5, 4, generator=g, dtype=torch.float64)
    reward = torch.rand(16, generator=g, dtype=torch.float64)
    _, q, t = enumerated(logits, told)
    weighted = (t.sum(1).exp() * (q.sum(1) - t.sum(1)).exp() * reward).sum()
    plain = (q.sum(1).exp() * reward).sum()
    assert float(weighted.detach()) == pytest.approx(float(plain.detach()), abs=1e-12)
    (a,), (b,) = (torch.autograd.grad(x, logits, retain_graph=True) for x in (weighted, plain))
    (reinforce,) = torch.autograd.grad((q.sum(1).exp().detach() * reward * q.sum(1)).sum(), logits)
    assert torch.allclose(a, b, atol=1e-12) and torch.allclose(a, reinforce, atol=1e-12)


def test_5_the_best_told_self_is_the_untold_one_tilted_by_the_reward():
    """Maximising E[R] - beta KL(t || s) on a bandit by the reward that the recipe shapes, R - beta log t/s."""
    g = torch.Generator().manual_seed(1)
    s = torch.randn(6, generator=g, dtype=torch.float64).log_softmax(0)
    reward, beta = torch.rand(6, generator=g, dtype=torch.float64), 0.25
    z = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([z], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        t = z.log_softmax(0)
        value = -(t.exp() * (reward - beta * (t - s))).sum()
        value.backward()
        return value

    optimiser.step(loss)
    want = (s + reward / beta).softmax(0)
    assert float((z.detach().softmax(0) - want).abs().max()) < 1e-3


def test_6_a_penalty_is_a_mean_and_does_not_grow_with_the_length(setting):
    s = setting(num_units=8, num_rows=2)
    s.batch.units["tokens"].row[:] = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    s.batch.notes.update({"tokens.log_prob": torch.full((8,), -1.0), "tokens.untold": torch.full((8,), -3.0)})
    s.batch.notes["rows.right"] = torch.tensor([1.0, 1.0])
    advantage = made(reuse=2).updates[0].objective[0].loss.advantage
    reward = advantage.of
    ctx = Context(s.batch, {}, {})
    assert ctx(reward).tolist() == pytest.approx([1 - 0.25 * 2] * 2)
    assert ctx(advantage).tolist() == [0, 0]


def test_the_answer_is_written_with_the_solution_and_trained_without_it(world):
    rows = [replace(r, fields={"reference": "blue"}) for r in world.records]
    step = made().source.steps[0]
    done = list(run_steps((step,), rows, world.ws.within("t")))
    assert len(done) == 40 and all("blue" not in p.content for r in done for p in r.without_answer().pieces)
    told = [Told()(r) for r in rows]
    plain = list(run_steps((step.step,), told, world.ws.within("t")))
    assert [r.pieces[-1] for r in done] == [r.pieces[-1] for r in plain] and {r.group for r in done} == {r.id for r in rows}
    own = list(run_steps((step,), world.records[:1], world.ws.within("t")))
    assert own[0].fields["reference"] == "yes", "the data's own answer is told where no field holds another"
    with pytest.raises(DataError, match="informed"):
        list(run_steps((step,), [world.records[0].without_answer()], world.ws))


def test_through_says_which_rows_it_cannot_place(world):
    class Renames:
        reads = "row"

        def __call__(self, records, ws):
            yield from (Record("other", r.pieces) for r in records)

    with pytest.raises(DataError, match="none of those"):
        list(run_steps((Through(lambda r: r, Renames()),), world.records[:1], world.ws))
    assert Through(lambda r: r, Ask("student")).slots() == {"student"}


def test_settings_are_checked():
    for wrong in ({"teacher_share": 1.5}, {"beta": -1.0}, {"likely_scale": -1.0}, {"rollouts": 1}):
        with pytest.raises(SettingError, match="pi_distill"):
            pi_distill(**wrong)
    assert [t.name for t in made(likely_scale=0.1).updates[0].objective] == ["told", "untold", "likely"]
