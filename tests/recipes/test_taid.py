"""The checks of the card: the moving target, its stop-gradient, and the schedule that follows the loss."""

from __future__ import annotations

import math
import runpy
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tutelage.core import catalog, node
from tutelage.core.context import Context
from tutelage.core.errors import SettingError, UnknownName
from tutelage.core.feedback import Climb
from tutelage.core.recipe import Train
from tutelage.core.schedule import Complement, Linear, Progress, memories
from tutelage.core.scores import Dense
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update
from tutelage.data.source import Corpus
from tutelage.signals.divergences import cross_entropy, kl_forward
from tutelage.signals.match import Match
from tutelage.signals.readouts import Entropy
from tutelage.voices.blend import Blend, Mixed

KIT = runpy.run_path(str(Path(__file__).parents[1] / "contracts" / "conftest.py"))
setting, Fixed = KIT["setting"], KIT["Fixed"]
TAID = Match(cross_entropy, p=Read("target"))


def target(share):
    return Blend(("student", "teacher"), (1 - share, share), geometric=True)


def run(s, share, coefficients=None):
    ctx = s.context(target=target(share))
    ones = torch.ones(1, 13, dtype=torch.float64) if coefficients is None else coefficients
    value, values = node.total(ctx, "tokens", [TAID], ones)
    return (*torch.autograd.grad(value, (s.hidden, s.weight)), values[0])


def test_at_full_share_it_is_the_soft_cross_entropy_and_forward_kl_plus_the_teachers_entropy(setting):
    s = setting()
    *_, values = run(s, 1.0)
    q, p = s.log_q(), s.log_p()
    assert torch.allclose(values, -(p.exp() * q).sum(-1), atol=1e-10)
    entropy = s.context()(Entropy(Read("teacher")))
    assert torch.allclose(values - entropy, kl_forward(q, p), atol=1e-6)


def test_at_share_0_the_student_is_its_own_target_and_nothing_moves(setting):
    s = setting()
    to_hidden, to_weight, values = run(s, 0.0)
    assert float(to_hidden.abs().max()) < 1e-12 and float(to_weight.abs().max()) < 1e-12
    assert torch.allclose(values, s.context()(Entropy()).detach())


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_gradient_in_the_logits_is_q_minus_p_t_whatever_the_share(share):
    """By finite differences with the target held still, on five categories; the teacher gets no gradient."""
    g = torch.Generator().manual_seed(1)
    z, v = (torch.randn(3, 5, generator=g, dtype=torch.float64) for _ in range(2))
    p_t = ((1 - share) * z + share * v).softmax(-1)
    eps, slope = 1e-6, torch.zeros_like(z)
    for i in range(3):
        for j in range(5):
            up, down = z.clone(), z.clone()
            up[i, j] += eps
            down[i, j] -= eps
            ends = [-(p_t * x.log_softmax(-1)).sum() / 3 for x in (up, down)]
            slope[i, j] = (ends[0] - ends[1]) / (2 * eps)
    assert torch.allclose(slope, (z.softmax(-1) - p_t) / 3, atol=1e-8)
    z.requires_grad_()
    v.requires_grad_()
    mixed = Mixed((Dense(z.log_softmax(-1)), Dense(v.log_softmax(-1))), (1 - share, share), geometric=True)
    loss = cross_entropy(z.log_softmax(-1), mixed.at(slice(None)).detach()).sum() / 3
    to_student, to_teacher = torch.autograd.grad(loss, (z, v), allow_unused=True)
    assert torch.allclose(to_student, slope, atol=1e-8) and to_teacher is None


def test_the_lazy_target_gives_the_dense_gradient_under_weights(setting):
    s = setting()
    weights = torch.linspace(0, 2, 13, dtype=torch.float64)[None]
    to_hidden, to_weight, _ = run(s, 0.3, weights)
    p_t = (0.7 * s.log_q() + 0.3 * s.log_p()).log_softmax(-1).detach()
    want = torch.autograd.grad((cross_entropy(s.log_q(), p_t) * weights[0]).sum(), (s.hidden, s.weight))
    assert torch.allclose(to_hidden, want[0], atol=1e-10) and torch.allclose(to_weight, want[1], atol=1e-10)


def test_interpolation_is_geometric_not_arithmetic():
    q, p = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.1, 0.1, 0.8]])
    mixed = Mixed((Dense(q.log()), Dense(p.log())), (0.75, 0.25), geometric=True).at(slice(None)).exp()
    geometric = q**0.75 * p**0.25
    assert torch.allclose(mixed, geometric / geometric.sum())
    assert float((mixed - (0.75 * q + 0.25 * p)).abs().max()) > 0.03


def test_zeros_of_either_side_stay_zeros():
    """A category that one side excludes has no mass in the target, and a side without a share excludes nothing."""
    q, p = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.0, 0.5, 0.5]]).log()
    for share, want in ((0.5, [0.0, 1.0, 0.0]), (0.0, [0.5, 0.5, 0.0]), (1.0, [0.0, 0.5, 0.5])):
        mixed = Mixed((Dense(q), Dense(p)), (1 - share, share), geometric=True).at(slice(None)).exp()
        assert torch.allclose(mixed, torch.tensor([want]))
    assert float(cross_entropy(q, torch.tensor([[1.0, 0.0, 0.0]]).log())) == pytest.approx(math.log(2))


def climb(losses, *, num_steps=None, **settings):
    """The values that the steps used, and the one after the last."""
    made = Climb("loss", **{"start": 0.2, "end": 1.0, **settings})
    num_steps = num_steps or len(losses)
    used = []
    for step, loss in enumerate(losses):
        progress = Progress("train", step, num_steps)
        used.append(made(progress))
        made.observe(progress, {"loss": loss})
    return used, made(Progress("train", num_steps, num_steps)), made


@pytest.mark.parametrize("rate", [0.0, 5e-4, 0.05, 1.0])
def test_the_share_never_falls_never_passes_the_end_and_never_trails_the_line(rate):
    g = torch.Generator().manual_seed(0)
    losses = (3 + torch.randn(200, generator=g)).abs().tolist()
    used, last, _ = climb(losses, rate=rate)
    assert all(b >= a for a, b in pairwise(used)) and max(*used, last) <= 1.0
    assert all(u >= 0.2 + 0.8 * step / 200 - 1e-12 for step, u in enumerate(used))
    assert last == pytest.approx(1.0, abs=1e-12) and used[0] == 0.2


def test_without_a_rate_it_is_the_line():
    line = Linear(0.2, 1.0)
    used, last, _ = climb([3.0, 2.0, 5.0, 1.0] * 10, rate=0.0)
    assert [*used, last] == pytest.approx([line(Progress("train", s, 40)) for s in range(41)])


def test_falling_losses_lift_it_above_the_line_at_half_time():
    used, _, _ = climb([10 * 0.99**s for s in range(1500)], rate=5e-3)
    assert used[750] > 0.2 + 0.8 * 0.5 + 0.05


def test_each_step_is_the_formula_written_as_a_loop():
    losses = [4.0, 3.5, 3.6, 2.0, 2.0, 1.0]
    used, _, _ = climb(losses, num_steps=1000, rate=0.1, inertia=0.9)
    t, momentum, want = 0.2, 0.0, []
    for step, loss in enumerate(losses):
        t = max(t, 0.2 + 0.8 * step / 1000)
        want.append(t)
        if step:
            momentum = 0.9 * momentum + 0.1 * (losses[step - 1] - loss) / losses[step - 1]
            t = min(1.0, t + 0.1 / (1 + math.exp(-momentum)) * (1 - t))
    assert used == pytest.approx(want, rel=1e-12)


def test_it_goes_on_from_its_state_and_a_reset_starts_anew():
    losses = [5.0, 4.0, 3.0, 3.5, 1.0, 0.5]
    whole, _, _ = climb(losses, rate=0.2)
    half = Climb("loss", 0.2, 1.0, 0.2)
    for step in range(3):
        half.observe(Progress("train", step, 6), {"loss": losses[step]})
    other = Climb("loss", 0.2, 1.0, 0.2)
    other.load_state_dict(half.state_dict())
    for step in range(3, 6):
        assert other(Progress("train", step, 6)) == whole[step]
        other.observe(Progress("train", step, 6), {"loss": losses[step]})
    other.reset()
    assert other(Progress("train", 0, 6)) == 0.2


def test_it_may_fall_as_well_and_ignores_means_that_are_missing_or_not_finite():
    falling = Climb("loss", 1.0, 0.0, 0.1)
    values = []
    for step, means in enumerate([{"loss": 2.0}, {"loss": 1.0}, {}, {"loss": math.nan}, {"other": 1.0}, {"loss": 0.0}, {"loss": 5.0}]):
        values.append(falling(Progress("train", step, 100)))
        falling.observe(Progress("train", step, 100), means)
    assert all(b <= a for a, b in pairwise(values)) and values[-1] < 0.94
    assert values[2] == values[3] == values[4], "a step without the mean leaves it"


def test_a_mean_that_nothing_measures_is_refused_when_built():
    term = Term("taid", TAID)
    with pytest.raises(UnknownName, match="Did you mean 'taid'"):
        Train("train", Corpus(), (Update((term,)),), voices={"target": target_of(Climb("taidd"))})
    with pytest.raises(SettingError, match="rate in"):
        Climb("loss", rate=2.0)
    with pytest.raises(SettingError, match="taid"):
        catalog.build("taid", {"start": 0.9, "end": 0.5})


def target_of(share):
    return Blend(("student", "teacher"), (Complement(share), share), geometric=True)


def test_the_checkpoint_finds_the_schedule_once_and_the_log_shows_it():
    (stage,) = catalog.build("taid").stages
    (memory,) = memories({"stage": stage}).values()
    assert isinstance(memory, Climb) and memory.figures() == {"climb.taid": 0.2}
    assert Complement(memory)(Progress("train", 0, 10)) == pytest.approx(0.8)


def test_the_teacher_is_needed_though_only_the_blend_reads_it():
    from tutelage.core.needs import needs

    assert needs(catalog.build("taid"))["teacher"] == frozenset({"next"})


def test_the_share_is_that_of_the_step(setting):
    s = setting()
    line = Linear(0.0, 1.0)
    voices = {"student": Fixed("student", {"next": Dense(s.log_q())}), "teacher": Fixed("teacher", {"next": Dense(s.log_p())})}
    for step, want in ((0, s.log_q()), (10, s.log_p()), (5, (0.5 * s.log_q() + 0.5 * s.log_p()).log_softmax(-1))):
        ctx = Context(s.batch, {**voices, "target": target_of(line)}, {}, progress=Progress("train", step, 10))
        assert torch.allclose(ctx.field(Read("target")).at(slice(None)), want)


def test_a_blend_of_stored_scores_is_swept_like_them(setting):
    from tutelage.core.scores import Kept

    s = setting()
    values, ids = s.log_p().topk(11, dim=1)
    kept = Kept(ids, values, 11)
    ctx = s.context(teacher=Fixed("teacher", {"next": kept}), target=target(0.4))
    value, _ = node.total(ctx, "tokens", [TAID], torch.ones(1, 13, dtype=torch.float64))
    want = cross_entropy(s.log_q(), (0.6 * s.log_q() + 0.4 * s.log_p()).log_softmax(-1).detach()).sum()
    assert torch.allclose(value, want) and ctx.field(Read("target")).swept


def test_the_first_steps_gradient_is_about_start_times_that_of_forward_kl(setting):
    s = setting()
    ones = torch.ones(1, 13, dtype=torch.float64)
    full, _ = node.total(s.context(), "tokens", [Match(kl_forward)], ones)
    whole = torch.autograd.grad(full, s.hidden)[0].norm()
    assert 0.1 < float(run(s, 0.2)[0].norm() / whole) < 0.4
