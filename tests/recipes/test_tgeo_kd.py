"""TGeo-KD, check by check of its card; check 5 is tests/behaviour/test_tgeo_kd.py."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from tutelage.core.errors import DataError, NeedError, SettingError, UnknownName
from tutelage.core.schedule import Progress
from tutelage.core.signal import Constant, Read
from tutelage.core.term import Term, Update
from tutelage.data.collate import Collate
from tutelage.models.controllers import Controller
from tutelage.recipes.tgeo_kd import tgeo_kd
from tutelage.signals.apply import Apply
from tutelage.signals.lookahead import AheadSlope, Decided
from tutelage.signals.readouts import LogProb
from tutelage.surgery.token_means import TokenMeans
from tutelage.training.step import Plan, run_update
from tutelage.voices.says import Says

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, Fixed, context = (KIT[n] for n in ("world", "worst", "setting", "stage", "Fixed", "context"))
limit, trains, step, same = (KIT[n] for n in ("limit", "trains", "step", "same"))
HELD = 2


@pytest.fixture
def bilevel(world):
    """The world in double precision with a controller, held-out rows and rows with the mean note."""
    for model in (world.pair.teacher, world.pair.student):
        model.model.double()
    torch.manual_seed(0)
    controller = Controller(10).double()
    world.ws.models["controller"] = Callable(controller)
    world.ws.data["held_out"] = [world.row(f"h{i}", "What?", t) for i, t in enumerate(("the green one", "no"))][:HELD]
    world.ws.data["train"] = world.rows = world.records
    means = TokenMeans(Apply("exp", LogProb(Read("teacher"))))(world.ws)
    world.ws.models["means"] = Callable(means)
    world.controller = controller
    return world


class Callable:
    """A part as the world's steps want it: something with a model."""

    def __init__(self, model):
        self.model, self.parameters, self.weight = model, model.parameters, getattr(model, "weight", None)

    def __call__(self, x):
        return self.model(x)


def moved(world, update, rows=None):
    """Gradients of the controller and of the student in one update, and the outcome."""
    for slot, model in world.ws.models.items():
        model.model.requires_grad_(slot in update.moves).zero_grad()
    plan = Plan.of(update, {slot: Says(slot) for slot in world.ws.models})
    batch = Collate(world.tokenizer, 128)(rows or world.rows)
    told = run_update(plan, [batch], world.ws, Progress("train", 0, 10), backward=lambda v: v.backward(), reduce=lambda t: t, inside=lambda f: f())
    of = [{n: p.grad.clone() for n, p in world.ws.models[s].model.named_parameters() if p.grad is not None} for s in ("controller", "student")]
    return *of, told


def dense(world, rows):
    """Hidden states, targets and teacher's logits of some rows."""
    batch = Collate(world.tokenizer, 128)(rows)
    view = batch.views["main"]
    with torch.no_grad():
        x = world.pair.student.hidden(view.inputs).flatten(0, 1)[view.at]
        t = world.pair.teacher.model(**view.inputs).logits.flatten(0, 1)[view.at]
    return x, batch.units["tokens"].target, t, batch


def held_loss(world, numbers, rate=0.1, temperature=1.5):
    """The held-out loss after the look-ahead, by autograd through everything: the definition."""
    x, y, t, _ = dense(world, world.rows)
    xv, yv, _, _ = dense(world, world.ws.data["held_out"])
    w = world.pair.student.head.weight.detach().clone().requires_grad_()
    a, z = world.controller(numbers), x @ w.T
    log_q, log_p = (z / temperature).log_softmax(-1), (t / temperature).log_softmax(-1)
    kl = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)
    inner = (a * kl + (1 - a) * cross_entropy(z, y, reduction="none")).mean()
    (g,) = torch.autograd.grad(inner, w, create_graph=True)
    return cross_entropy(xv @ (w - rate * g).T, yv)


def features(world):
    """The ten numbers of each unit, by hand."""
    x, y, t, batch = dense(world, world.rows)
    log_q, log_p = (x @ world.pair.student.head.weight.T).log_softmax(-1), t.log_softmax(-1)
    q, p = (v.gather(1, y[:, None]).squeeze(1).exp() for v in (log_q, log_p))
    b = torch.stack([p[y == c].mean() for c in y])
    assert torch.allclose(world.ws.models["means"].weight[batch.units["tokens"].target, 0].double(), b, atol=1e-6)
    entropies = [-(v.exp() * v).sum(-1) for v in (log_q, log_p)]
    return torch.stack([q, p, b, (b - q) ** 2, (1 - q) ** 2, (p - q) ** 2, (1 - p) ** 2, (p > q).double(), *entropies], 1).detach()


@limit("tgeo_kd", "share=1: forward_kl with the same temperature.")
@limit("tgeo_kd", "share=0: supervised.")
def test_1_a_constant_share_is_plain_distillation_with_that_ratio(world, step):
    same(step(trains("tgeo_kd", share=1.0)[0]), step(trains("forward_kl", temperature=1.5)[0]), 5e-6)
    same(step(trains("tgeo_kd", share=0.0)[0]), step(trains("supervised")[0]), 5e-6)
    mixed, _ = world.gradients(stage("tgeo_kd", share=0.3).updates[0])
    soft, _ = world.gradients(stage("forward_kl", temperature=1.5).updates[0])
    hard, _ = world.gradients(stage("supervised").updates[0])
    assert worst(mixed, {n: 0.3 * soft[n] + 0.7 * hard[n] for n in hard}) < 5e-6


def test_1_a_controller_forced_to_a_number_is_that_share(bilevel):
    with torch.no_grad():
        bilevel.controller[-1].weight.zero_()
        bilevel.controller[-1].bias.fill_(torch.logit(torch.tensor(0.3)))
    _, got, _ = moved(bilevel, stage("tgeo_kd").updates[1])
    _, want, _ = moved(bilevel, stage("tgeo_kd", share=0.3).updates[0])
    assert worst(got, want) < 1e-6


def test_2_the_hyper_gradient_is_not_0_and_is_that_of_the_held_out_loss_by_autograd_and_finite_differences(bilevel):
    lead = stage("tgeo_kd").updates[0]
    got, _, _ = moved(bilevel, lead)
    numbers = features(bilevel)
    bilevel.controller.requires_grad_(True)
    exact = torch.autograd.grad(held_loss(bilevel, numbers), list(bilevel.controller.parameters()))
    want = dict(zip((n for n, _ in bilevel.controller.named_parameters()), exact, strict=True))
    assert got.keys() == want.keys() and max(float(g.abs().max()) for g in want.values()) > 1e-6
    assert worst(got, want) < 1e-4  # weights of units are float32
    weight = bilevel.controller[2].weight
    place = int(want["2.weight"].abs().argmax())
    values = []
    for by in (1e-3, -1e-3):
        with torch.no_grad():
            weight.view(-1)[place] += by
        values.append(float(held_loss(bilevel, numbers).detach()))
        with torch.no_grad():
            weight.view(-1)[place] -= by
    assert float(got["2.weight"].view(-1)[place]) == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-2)
    optimiser = torch.optim.Adam(bilevel.controller.parameters(), 1e-2)
    before = [p.detach().clone() for p in bilevel.controller.parameters()]
    for n, p in bilevel.controller.named_parameters():
        p.grad = got[n]
    optimiser.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, bilevel.controller.parameters(), strict=True))


def test_3_the_students_step_gives_the_controller_no_gradient_and_the_controllers_the_student_none(bilevel):
    lead, follow = stage("tgeo_kd").updates
    both = Update(follow.objective, ("student", "controller"))
    to_controller, to_student, told = moved(bilevel, both)
    assert not any(float(g.abs().max()) for g in to_controller.values()) and to_student and told.loss > 0
    to_controller, to_student, _ = moved(bilevel, Update(lead.objective, ("student", "controller")))
    assert to_controller and not any(float(g.abs().max()) for g in to_student.values())


def test_4_squares_are_0_at_agreement_and_renamed_classes_change_no_number(setting, bilevel):
    seen = stage("tgeo_kd").updates[0].objective[0].loss.factors[0].of
    sure = setting(num_units=4, num_categories=6)
    y = sure.batch.units["tokens"].target[:4]
    logits = 60 * torch.eye(6, dtype=torch.float64)[y]
    sure.hidden = sure.teacher_hidden = logits
    sure.weight = sure.teacher_weight = torch.eye(6, dtype=torch.float64)
    ones = SimpleNamespace(models={"means": SimpleNamespace(weight=torch.ones(6, 1, dtype=torch.float64))})
    ctx = sure.context()
    ctx.workspace = ones
    values = torch.stack([ctx(s).expand(4) for s in seen], 1)
    assert torch.allclose(values, torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=torch.float64).expand(4, -1), atol=1e-6)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    s, t = (torch.randn(4, 6, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (1, 2))
    found = []
    for turn in (torch.arange(6), order):
        sure.hidden, sure.teacher_hidden = s[:, turn], t[:, turn]
        sure.batch.units["tokens"].target[:] = turn.argsort()[y]
        ctx = sure.context()
        ctx.workspace = ones
        found.append(torch.stack([ctx(signal).expand(4) for signal in seen], 1))
    assert torch.allclose(*found, atol=1e-10)


def test_the_numbers_are_those_of_a_plain_loop_and_the_share_is_the_parts(bilevel):
    decided = stage("tgeo_kd").updates[0].objective[0].loss.factors[0]
    ctx = context(bilevel, bilevel.rows)
    numbers = features(bilevel)
    with torch.no_grad():
        assert torch.allclose(torch.stack([ctx.spread(s, "tokens").double() for s in decided.of], 1), numbers, atol=1e-6)
        assert torch.allclose(ctx(decided), bilevel.controller(numbers), atol=1e-6)
    shares = moved(bilevel, stage("tgeo_kd").updates[1])[2].tallies["share"].mean
    assert 0 < shares < 1


def test_the_students_update_may_be_split_and_the_look_ahead_may_not(bilevel):
    lead, follow = stage("tgeo_kd").updates
    plan = Plan.of(lead, {slot: Says(slot) for slot in bilevel.ws.models})
    with pytest.raises(NeedError, match="micro_batch_size to"):
        plan.refuse_split(2)
    Plan.of(follow, {slot: Says(slot) for slot in bilevel.ws.models}).refuse_split(2)
    want, told = bilevel.gradients(follow, rows=bilevel.rows)
    got, also = bilevel.gradients(follow, rows=bilevel.rows, size=2)
    assert worst(got, want) < 5e-6 and also.loss == pytest.approx(told.loss, rel=1e-5)


def test_settings_and_missing_rows_are_refused(bilevel):
    for wrong in ({"share": 1.5}, {"temperature": 0.0}, {"num_held": 0}, {"ahead": 0.0}, {"controller_rate": 0.0}):
        with pytest.raises(SettingError):
            tgeo_kd(**wrong)
    lead = Update((Term("ahead", AheadSlope(Constant(0.5), held="elsewhere") * Decided("controller", (Constant(1.0),))),), ("controller",))
    with pytest.raises(UnknownName, match="elsewhere"):
        moved(bilevel, lead)
    bilevel.ws.data["held_out"] = []
    with pytest.raises(DataError, match="no held-out rows"):
        moved(bilevel, replace(lead, objective=(Term("ahead", AheadSlope(Constant(0.5))),)))
