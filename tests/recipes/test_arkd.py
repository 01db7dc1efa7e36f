"""ARKD, check by check of its card; check 6 is tests/behaviour/test_arkd.py."""

from __future__ import annotations

import runpy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tutelage.core.context import Context
from tutelage.core.errors import SettingError
from tutelage.core.record import Piece, Record
from tutelage.core.schedule import Progress
from tutelage.core.signal import Couples, Noted, Signal
from tutelage.core.term import Update
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.models.controllers import Policy
from tutelage.recipes.arkd import arkd
from tutelage.signals.bandit import AtFirst, BatchNorm, Choice, Chosen, Surprise, policy_terms
from tutelage.signals.gaps import Gap
from tutelage.training.step import Plan, run_update
from tutelage.voices.says import Says

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, Fixed = (KIT[n] for n in ("world", "worst", "setting", "stage", "Fixed"))
limit, trains, step, same = (KIT[n] for n in ("limit", "trains", "step", "same"))


class Part:
    """A part as the world's steps want it: something with a model."""

    def __init__(self, model):
        self.model, self.parameters = model, model.parameters

    def __call__(self, x):
        return self.model(x)


def moved(world, update, at=5, size=99):
    """Gradients of each slot in one update at a step, and the outcome; nothing moves."""
    for slot, model in world.ws.models.items():
        model.model.requires_grad_(slot in update.moves).zero_grad()
    plan = Plan.of(update, {slot: Says(slot) for slot in world.ws.models})
    batches = [Collate(world.tokenizer, 128)(world.records[i : i + size]) for i in range(0, len(world.records), size)]
    told = run_update(plan, batches, world.ws, Progress("train", at, 10), backward=lambda v: v.backward(), reduce=lambda t: t, inside=lambda f: f())
    grads = {s: {n: p.grad.clone() for n, p in m.model.named_parameters() if p.grad is not None} for s, m in world.ws.models.items()}
    return grads, told


@pytest.fixture
def acting(world):
    torch.manual_seed(0)
    policy = Policy(6)
    torch.nn.init.normal_(policy[-1].weight)
    world.ws.models["policy"] = Part(policy)
    return world


@limit("arkd", "share=1: forward_kl.")
@limit("arkd", "share=0: reverse_kl.")
def test_1_a_share_of_1_is_forward_and_of_0_reverse_kl(step, acting):
    same(step(trains("arkd", share=1.0)[0]), step(trains("forward_kl")[0]))
    same(step(trains("arkd", share=0.0)[0]), step(trains("reverse_kl")[0]))
    with torch.no_grad():  # a policy that always says so is the same
        acting.ws.models["policy"].model[-1].weight.zero_()
        for bias, name in ((60.0, "forward_kl"), (-120.0, "reverse_kl")):
            acting.ws.models["policy"].model[-1].bias.fill_(bias)
            with torch.enable_grad():
                got, _ = moved(acting, stage("arkd").updates[0])
                want, _ = moved(acting, stage(name).updates[0])
            assert worst(got["student"], want["student"]) < 1e-6


def test_2_no_gradient_flows_from_the_students_loss_to_the_policy_nor_back(acting):
    follow, learn = stage("arkd").updates
    grads, _ = moved(acting, Update(follow.objective, ("student", "policy")))
    assert grads["student"] and not any(float(g.abs().max()) for g in grads["policy"].values())
    stirred = {"at": 5}
    moved(acting, follow, **stirred)
    with torch.no_grad():
        for p in acting.pair.student.model.parameters():
            p.mul_(1.05)
    grads, told = moved(acting, Update(learn.objective, ("student", "policy"), watch=learn.watch), **stirred)
    assert not any(float(g.abs().max()) for g in grads["student"].values())
    assert max(float(g.abs().max()) for g in grads["policy"].values()) > 1e-6 and told.tallies["reward"].mean != 0


@dataclass(frozen=True)
class Given(Signal):
    """A reward of the chosen share and a note, for a bandit that needs no models."""

    chosen: Chosen
    ask: object
    couples = Couples.ROW

    @property
    def over(self):
        return "rows"

    def __call__(self, ctx):
        return self.ask(ctx(self.chosen), ctx.note("high", "rows"))


def bandit(tmp_path, ask, updates, tokenizer, rows=16, rate=3e-3):
    """A policy trained by ``policy_terms`` on a given reward; its mean action where the note is 0 and where it is 1."""
    torch.manual_seed(0)
    ws, policy = Workspace(tmp_path, 0), Policy(1)
    ws.models["policy"] = policy
    choice = Choice("policy", (Noted("high", "rows"),), 0.5)
    update = Update(policy_terms(choice, Given(Chosen(choice), ask)), ("policy",))
    plan, optimiser = Plan.of(update, {}), torch.optim.Adam(policy.parameters(), lr=rate)
    records = [Record(f"r{i}", (Piece("ab", trains=True),), {}, {"high": float(i % 2)}) for i in range(rows)]
    batch = Collate(tokenizer, 32)(records)
    for at in range(updates):
        optimiser.zero_grad()
        run_update(plan, [batch], ws, Progress("train", at, updates), backward=lambda v: v.backward(), reduce=lambda t: t, inside=lambda f: f())
        optimiser.step()
    with torch.no_grad():
        return torch.sigmoid(policy(torch.tensor([[0.0], [1.0]]))).tolist()


def test_3_the_mean_action_finds_the_best_one_and_a_constant_reward_moves_nothing(tmp_path, tiny_pair):
    best = bandit(tmp_path / "a", lambda w, high: -((w - 0.8) ** 2), 500, tiny_pair.tokenizer)
    assert all(abs(w - 0.8) < 0.05 for w in best)
    still = bandit(tmp_path / "b", lambda w, high: torch.full_like(w, 0.3), 100, tiny_pair.tokenizer)
    assert all(abs(w - 0.5) < 0.05 for w in still)


def test_4_the_action_follows_the_state(tmp_path, tiny_pair):
    def ask(w, high):
        return -((w - 0.1 - 0.8 * high) ** 2)

    low, high = bandit(tmp_path, ask, 500, tiny_pair.tokenizer, rate=1e-2)
    assert high - low > 0.5


def test_5_at_the_start_both_divergences_weigh_one_half(world):
    world.ws.models["policy"] = Part(Policy(6))
    made = stage("arkd")
    _, told = moved(world, made.updates[0], at=0)
    half = 0.5 * told.tallies["forward"].mean / 0.5 + 0.5 * told.tallies["reverse"].mean / 0.5
    assert told.loss == pytest.approx(half, rel=1e-6) and told.tallies["share"].mean == 0.5
    _, forward = moved(world, stage("forward_kl").updates[0])
    _, reverse = moved(world, stage("reverse_kl").updates[0])
    assert told.loss == pytest.approx(0.5 * forward.loss + 0.5 * reverse.loss, rel=1e-6)
    grads, _ = moved(world, made.updates[1], at=0)
    assert not any(float(g.abs().max()) for g in grads["policy"].values()), "the policy rests while it is warmed up"
    assert float(Policy(3)(torch.randn(5, 3)).abs().max()) == 0


def test_the_policys_gradient_is_reinforce_by_hand(acting):
    state = Noted("right", "rows")
    choice = Choice("policy", (state,) * 6, 0.5)
    update = Update(policy_terms(choice, Noted("pay", "rows")), ("policy",))
    pay = [0.3, -1.0, 2.0, 0.5, 0.1]
    acting.records[:] = [replace(r, notes={**r.notes, "pay": x}) for r, x in zip(acting.records, pay, strict=True)]
    got, _ = moved(acting, update)
    split, _ = moved(acting, update, size=2)
    policy = acting.ws.models["policy"].model
    ctx = Context(Collate(acting.tokenizer, 128)(acting.records), {}, {}, workspace=acting.ws, progress=Progress("train", 5, 10))
    noise, spread = choice.noise(ctx)
    x = ctx.note("right", "rows")[:, None].expand(-1, 6)
    policy.requires_grad_(True).zero_grad()
    mean, r = policy(x), torch.tensor(pay)
    z = mean.detach() + spread * noise
    advantage = (r - r.mean()) / (r.std() + 1e-6)
    (-(torch.distributions.Normal(mean, spread).log_prob(z) * advantage).mean()).backward()
    want = {n: p.grad for n, p in policy.named_parameters()}
    assert worst(got["policy"], want) < 1e-5 and worst(split["policy"], want) < 1e-5
    assert torch.allclose(ctx(Surprise(choice)), -torch.distributions.Normal(mean, spread).log_prob(z), atol=1e-5)
    assert torch.allclose(ctx(Chosen(choice)), torch.sigmoid(z), atol=1e-6)
    assert torch.equal(ctx(BatchNorm(Noted("pay", "rows") * 0)), torch.zeros(5))


def test_what_was_seen_first_lasts_for_the_step_alone(acting):
    follow, learn = stage("arkd").updates
    reward = dict(learn.watch)["reward"]
    moved(acting, follow, at=5)
    _, told = moved(acting, learn, at=5)
    assert told.tallies["reward"].mean == pytest.approx(0, abs=1e-7), "nothing moved"
    with torch.no_grad():
        for p in acting.pair.student.model.parameters():
            p.mul_(1.05)
    _, told = moved(acting, learn, at=5)
    assert abs(told.tallies["reward"].mean) > 1e-4
    _, told = moved(acting, learn, at=6)
    assert told.tallies["reward"].mean == pytest.approx(0, abs=1e-7), "another step begins anew"
    assert isinstance(reward.terms[0], AtFirst)


def test_splits_change_nothing(acting):
    want, told = moved(acting, stage("arkd").updates[0])
    got, also = moved(acting, stage("arkd").updates[0], size=2)
    assert worst(got["student"], want["student"]) < 5e-6 and also.loss == pytest.approx(told.loss, rel=1e-5)
    assert 0 < told.tallies["share"].mean < 1 and told.tallies["share"].mean != 0.5


def test_head_and_tail_are_a_plain_loops_and_add_up_to_twice_the_total_variation():
    g = torch.Generator().manual_seed(0)
    q, p = (torch.randn(6, 9, generator=g, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    head, tail = Gap(0.5)(q, p), Gap(0.5, tail=True)(q, p)
    assert torch.allclose(head + tail, (q.exp() - p.exp()).abs().sum(-1), atol=1e-12)
    for row in range(6):
        order, mass, want = p[row].argsort(descending=True).tolist(), 0.0, 0.0
        for c in order:
            want += float((q[row, c].exp() - p[row, c].exp()).abs())
            mass += float(p[row, c].exp())
            if mass >= 0.5:
                break
        assert float(head[row]) == pytest.approx(want, abs=1e-12)
    assert torch.allclose(Gap(1.0)(q, p), head + tail)


def test_settings_are_checked():
    for wrong in ({"share": 2.0}, {"head_scale": -1.0}, {"spread": 0.0}, {"warm_share": 1.0}, {"head_mass": 0.0}, {"policy_rate": 0.0}):
        with pytest.raises(SettingError):
            arkd(**wrong)
