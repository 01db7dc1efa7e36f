"""G-OPD and ExOPD, check by check of their card; check 7 is tests/behaviour/test_g_opd_exopd.py."""

from __future__ import annotations

import runpy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tutelage.core.batch import Batch, Units
from tutelage.core.catalog import build
from tutelage.core.context import Context
from tutelage.core.record import Record
from tutelage.core.schedule import Progress
from tutelage.core.scores import Head, Lazy
from tutelage.core.signal import Noted, Read, Still
from tutelage.data.collate import Collate, split
from tutelage.data.pipeline import run_steps
from tutelage.signals.divergences import kl_reverse
from tutelage.signals.importance import Ratio
from tutelage.signals.readouts import LogProb
from tutelage.training.step import Plan, run_update
from tutelage.voices import Route, Says

TESTS = Path(__file__).parents[1]
TRAINING = runpy.run_path(str(TESTS / "training" / "conftest.py"))
world, worst = TRAINING["world"], TRAINING["worst"]
V = 5


def loss(**arguments):
    return build("g_opd_exopd", arguments).stages[0].updates[0].objective[0].loss


@dataclass(frozen=True, eq=False)
class Fixed:
    slot: str
    hidden: torch.Tensor

    def slots(self):
        return frozenset({self.slot})

    def predict(self, ctx, wants):
        return {"next": Lazy(self.hidden, Head(torch.eye(V, dtype=torch.float64)))}


def expected(z, teacher, reference, signal, sampler=None):
    """The gradient in the logits z of the expected loss: every token, weighted by its probability of being sampled."""
    z = z.clone().requires_grad_()
    log_q = z.detach().log_softmax(-1)
    units = Units(torch.zeros(V, dtype=torch.long), torch.arange(V), torch.arange(V))
    drawn = log_q if sampler is None else sampler
    notes = {"tokens.drawn": drawn, "tokens.log_prob": log_q}
    batch = Batch((Record("r", ()),), {"tokens": units}, {}, notes)
    student = z.expand(V, V)
    voices = {n: Fixed(n, h) for n, h in (("student", student), ("teacher", teacher.expand(V, V)), ("start", reference.expand(V, V)))}
    ctx = Context(batch, voices, {}, frozenset({"student"}))
    (grad,) = torch.autograd.grad((ctx(signal) * drawn.exp()).sum(), z)
    return grad


@pytest.fixture
def logits():
    g = torch.Generator().manual_seed(4)
    return tuple(1.5 * torch.randn(V, generator=g, dtype=torch.float64) for _ in range(3))


def test_1_at_a_scale_of_1_the_reference_does_not_matter_and_it_is_opd(logits):
    z, p, ref = logits
    one = loss(reward_scale=1.0)
    assert {r.who for r in one.reads()} == {"student", "teacher"}, "the reference is not even asked"
    got = expected(z, p, ref, one)
    assert torch.equal(got, expected(z, p, -7 * ref, one))
    learner = z.clone().requires_grad_()
    (opd,) = torch.autograd.grad(kl_reverse(learner.log_softmax(-1), p.log_softmax(-1)), learner)
    assert torch.allclose(got, opd, atol=1e-12)
    # the general branch tends to it
    assert torch.allclose(expected(z, p, ref, loss(reward_scale=1 + 1e-9)), got, atol=1e-8)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.25, 2.0])
def test_2_the_fixed_point_is_the_tilted_reference(scale, logits):
    _, p, ref = logits
    z = torch.zeros(V, dtype=torch.float64)
    signal = loss(reward_scale=scale)
    for _ in range(400):
        z -= 1.0 * expected(z, p, ref, signal)
    want = ((1 - scale) * ref.log_softmax(-1) + scale * p.log_softmax(-1)).log_softmax(-1)
    assert float((z.log_softmax(-1).exp() - want.exp()).abs().max()) < 1e-3


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.25, 2.0])
def test_3_the_expected_sampled_gradient_is_that_of_the_kl_to_the_tilted_target(scale, logits):
    z, p, ref = logits
    log_target = ((1 - scale) * ref.log_softmax(-1) + scale * p.log_softmax(-1)).log_softmax(-1)
    learner = z.clone().requires_grad_()
    (want,) = torch.autograd.grad(kl_reverse(learner.log_softmax(-1), log_target), learner)
    assert torch.allclose(expected(z, p, ref, loss(reward_scale=scale)), want, atol=1e-6)


def test_4_at_a_scale_of_0_the_teacher_does_not_matter(logits):
    z, p, ref = logits
    none = loss(reward_scale=0.0)
    assert torch.allclose(expected(z, p, ref, none), expected(z, -3 * p, ref, none), atol=1e-12)
    learner = z.clone().requires_grad_()
    (pull,) = torch.autograd.grad(kl_reverse(learner.log_softmax(-1), ref.log_softmax(-1)), learner)
    assert torch.allclose(expected(z, p, ref, none), pull, atol=1e-12)


@pytest.fixture
def routed(world, new_causal):
    """One step over tagged rows, with teachers and bases of their own."""
    ws = world.ws
    for seed, name in enumerate(("math", "math_base", "code", "code_base")):
        ws.models[name] = new_causal(name, seed=10 + seed)
    stage = build("g_opd_exopd", {
        "max_tokens": 5, "teacher": {"m": "math", "c": "code"}, "reference": {"m": "math_base", "c": "code_base"},
    }).stages[0]  # fmt: skip
    tags = ["m", "c", "c", "m", "c"]
    rows = [replace(r, fields={"domain": t}) for r, t in zip(world.records, tags, strict=True)]
    rows = list(run_steps(stage.source.steps, rows, ws.within("t", 0)))

    def step(rows=rows, **how):
        update = stage.updates[0]
        plan = Plan.of(update, {slot: Says(slot) for slot in ws.models} | dict(stage.voices))
        size = how.pop("size", 99)
        batches = [Collate(world.tokenizer, 128, **how)(some) for some in split(rows, size)]
        student = world.pair.student.model
        student.requires_grad_(True).zero_grad()
        told = run_update(plan, batches, ws, Progress("t", 0, 9), backward=lambda v: v.backward(), reduce=lambda t: t, inside=lambda f: f())
        return {n: p.grad.clone() for n, p in student.named_parameters()}, told

    step.rows, step.ws, step.stage = rows, ws, stage
    return step


def test_5_a_row_is_judged_by_its_own_teacher_whatever_the_order_layout_and_other_teachers(routed, world):
    want, told = routed()
    for how in ({"rows": routed.rows[::-1]}, {"pack": True}, {"padding": "left", "size": 2}, {"size": 1}):
        got, same = routed(**how)
        assert worst(got, want) < 2e-6 and same.loss == pytest.approx(told.loss, rel=1e-4)
    only = [r for r in routed.rows if r.fields["domain"] == "m"]
    before, _ = routed(rows=only)
    with torch.no_grad():
        for p in routed.ws.models["code"].model.parameters():
            p *= 3
    assert worst(routed(rows=only)[0], before) == 0 and worst(routed()[0], want) > 1e-3


def test_5_a_route_equals_each_teacher_on_its_own_rows_and_asks_no_teacher_for_others(routed, world):
    ledger = routed.ws.ledger
    for pack in (False, True):
        batch = Collate(world.tokenizer, 128, pack=pack)(routed.rows)
        voices = {slot: Says(slot) for slot in routed.ws.models} | {"route": Route("domain", (("m", "math"), ("c", "code")))}
        names = ("route", "math", "code")
        with torch.no_grad():
            ctx = Context(batch, voices, {n: frozenset({"next"}) for n in names}, workspace=routed.ws)
            said = {n: ctx(LogProb(Read(n))) for n in names}
        mine = torch.tensor([r.fields["domain"] == "m" for r in routed.rows])[batch.units["tokens"].row]
        assert torch.allclose(said["route"], torch.where(mine, said["math"], said["code"]), atol=1e-5)
        scores = ctx.field(Read("route"))
        assert torch.allclose(scores.at(slice(2, 9)), scores.held(torch.arange(2, 9)).at(slice(0, 7)))
    before = ledger.get("code", "predict").tokens
    padded = Collate(world.tokenizer, 128)([r for r in routed.rows if r.fields["domain"] == "m"])
    with torch.no_grad():
        Context(padded, voices, {}, workspace=routed.ws)(LogProb(Read("route")))
    assert ledger.get("code", "predict").tokens == before


def test_6_the_weight_for_the_samplers_disagreement_is_cut_detached_and_1_where_they_agree(logits):
    z, p, ref = logits
    log_q = z.log_softmax(-1)
    assert torch.allclose(expected(z, p, ref, loss(), sampler=log_q), expected(z, p, ref, loss()))
    signal = loss()
    ratio = next(f for f in signal.advantage.factors if isinstance(f, Ratio))
    assert ratio.cap == 5.0 and ratio.old == Noted("drawn") and all(isinstance(c, Still) for c in ratio.children())
    # a sampler that is off: tokens it drew too rarely weigh more, up to the cap; below the cap the mean is restored
    off = (log_q + torch.tensor([-0.3, 0.2, 0.1, -0.1, 0.0], dtype=torch.float64)).log_softmax(-1)
    assert torch.allclose(expected(z, p, ref, signal, sampler=off), expected(z, p, ref, signal), atol=1e-12)
    far = log_q - torch.tensor([9.0, 0, 0, 0, 0], dtype=torch.float64)
    units = Units(torch.zeros(V, dtype=torch.long), torch.arange(V), torch.arange(V))
    batch = Batch((Record("r", ()),), {"tokens": units}, {}, {"tokens.drawn": far})
    ctx = Context(batch, {"student": Fixed("student", z.expand(V, V))}, {})
    assert ctx(ratio).tolist() == pytest.approx([5.0, 1, 1, 1, 1])


def test_reused_rounds_are_clipped_against_the_student_that_wrote_them():
    stale = loss(reuse=4)
    assert stale.against == Noted("log_prob") and loss().against == Still(LogProb())
    assert build("g_opd_exopd", {"reuse": 4}).stages[0].source.reuse == 4


def test_the_base_of_the_teacher_is_the_reference_where_it_is_named():
    stage = build("g_opd_exopd", {"reference": "base"}).stages[0]
    assert not stage.voices and {r.who for r in stage.updates[0].objective[0].loss.reads()} == {"student", "teacher", "base"}
    assert set(build("g_opd_exopd").stages[0].voices) == {"start"}
