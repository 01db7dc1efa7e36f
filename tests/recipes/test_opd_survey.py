"""The survey of on-policy distillation, check by check of its card; check 7 is tests/behaviour/test_opd_survey.py."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tutelage.core import catalog, node
from tutelage.core.axes import AXES, axes, check_axes, on
from tutelage.core.catalog import build
from tutelage.core.errors import SettingError, UnknownName
from tutelage.core.survey import PUBLISHED, published
from tutelage.signals.divergences import Tempered, kl_forward, kl_reverse
from tutelage.signals.divergences.generators import PLAIN, SHARED, member
from tutelage.signals.match import Match

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, setting, limit, trains, step, same = (KIT[n] for n in ("world", "setting", "limit", "trains", "step", "same"))
EVERY = [(name, 0.5) for name in PLAIN] + [(name, share) for name in SHARED for share in (0.1, 0.5, 0.9)] + [("alpha", 2.0), ("alpha", -1.0)]
each = pytest.mark.parametrize(("name", "share"), EVERY)


def draw(seed, num=40, categories=9):
    g = torch.Generator().manual_seed(seed)
    return (1.5 * torch.randn(num, categories, generator=g, dtype=torch.float64)).log_softmax(-1)


@each
def test_1_each_closed_form_is_the_sum_of_q_f_of_u_and_0_only_where_both_are_equal(name, share):
    made, log_q, log_p = member(name, share), draw(0), draw(1)
    u = (log_p - log_q).exp()
    value = made.compare(log_q, log_p)
    assert torch.allclose(value, (log_q.exp() * made.f(u)).sum(-1), atol=1e-9, rtol=1e-9)
    assert (value > 1e-6).all() and float(made.compare(log_p, log_p).abs().max()) < 1e-12
    assert float(made.f(torch.ones((), dtype=torch.float64)).abs()) < 1e-12


@each
def test_2_the_gradient_in_the_logits_is_that_of_the_generator_by_autograd_and_by_differences(name, share):
    made, log_p = member(name, share), draw(2, 5, 6)
    z = draw(3, 5, 6).requires_grad_()
    (slope,) = torch.autograd.grad(made.compare(z.log_softmax(-1), log_p).sum(), z)
    q = z.detach().softmax(-1)
    g = made.g(log_p.exp() / q)
    want = q * (g - (q * g).sum(-1, keepdim=True))
    assert torch.allclose(slope, want, atol=1e-9, rtol=1e-9)
    u = (0.2 + 3 * torch.rand(50, generator=torch.Generator().manual_seed(4), dtype=torch.float64)).requires_grad_()
    f = made.f(u)
    (df,) = torch.autograd.grad(f.sum(), u)
    own, shown = (f - u * df).detach(), made.g(u.detach())
    assert torch.allclose(own - own[0], shown - shown[0], atol=1e-9), "g is f - u f' up to a constant"
    if name == "total_variation":
        return
    eps, numeric = 1e-5, torch.zeros_like(want)
    with torch.no_grad():
        for j in range(6):
            ends = []
            for sign in (1, -1):
                moved = z.detach().clone()
                moved[:, j] += sign * eps
                ends.append(made.compare(moved.log_softmax(-1), log_p))
            numeric[:, j] = (ends[0] - ends[1]) / (2 * eps)
    assert torch.allclose(numeric, want, atol=1e-8)


@each
def test_2_the_lazy_node_gives_the_dense_gradient(name, share, setting):
    s = setting()
    made = member(name, share)
    weights = torch.linspace(0.1, 2, 13, dtype=torch.float64)
    value, _ = node.total(s.context(), "tokens", [Match(made.compare)], weights[None])
    got = torch.autograd.grad(value, (s.hidden, s.weight))
    want = torch.autograd.grad((made.compare(s.log_q(), s.log_p()) * weights).sum(), (s.hidden, s.weight))
    assert torch.allclose(got[0], want[0], atol=1e-9) and torch.allclose(got[1], want[1], atol=1e-9)


def test_3_limits_and_bounds():
    log_q, log_p = draw(5), draw(6)
    forward, reverse = kl_forward(log_q, log_p), kl_reverse(log_q, log_p)
    for power, end in ((1 - 1e-4, forward), (1e-4, reverse)):
        assert torch.allclose(member("alpha", power).compare(log_q, log_p), end, rtol=2e-3, atol=1e-4)
    assert torch.allclose(member("jensen", 1e-6).compare(log_q, log_p) / 1e-6, forward, rtol=1e-3)
    assert torch.equal(member("skewed_forward", 0.0).compare(log_q, log_p), forward)
    assert torch.equal(member("skewed_reverse", 0.0).compare(log_q, log_p), reverse)
    for end, want in ((0.0, forward), (1.0, reverse)):
        assert torch.equal(member("jensen", end).compare(log_q, log_p), want)
        assert torch.equal(member("alpha", 1 - end).compare(log_q, log_p), want)
    tv = member("total_variation").compare(log_q, log_p)
    assert (tv**2 <= forward / 2 + 1e-12).all() and (tv**2 <= reverse / 2 + 1e-12).all()
    assert member("jensen").most == pytest.approx(math.log(2))
    apart = torch.tensor([[1.0, 0.0]], dtype=torch.float64).log(), torch.tensor([[0.0, 1.0]], dtype=torch.float64).log()
    for name, share in EVERY:
        made = member(name, share)
        if math.isfinite(made.most):
            assert (made.compare(log_q, log_p) <= made.most).all()
            assert float(made.compare(*apart)) == pytest.approx(made.most, rel=1e-5)


@each
def test_4_merging_categories_never_raises_it(name, share):
    made, log_q, log_p = member(name, share), draw(7, 200, 12), draw(8, 200, 12)
    whole = made.compare(log_q, log_p)
    g = torch.Generator().manual_seed(9)
    for parts in (2, 4, 7):
        home = torch.randint(parts, (12,), generator=g)
        home[:parts] = torch.arange(parts)
        merged = [torch.zeros(200, parts, dtype=torch.float64).index_add_(1, home, x.exp()).log() for x in (log_q, log_p)]
        assert (made.compare(*merged) <= whole + 1e-12).all()


def test_5_at_a_high_temperature_the_scaled_gradient_is_that_of_matching_logits():
    g = torch.Generator().manual_seed(10)
    z, t = (torch.randn(20, 15, generator=g, dtype=torch.float64) for _ in range(2))
    z, t = (x - x.mean(-1, keepdim=True) for x in (z, t))
    z.requires_grad_()
    (slope,) = torch.autograd.grad(Tempered(kl_forward, 1e3)(z.log_softmax(-1), t.log_softmax(-1)).sum(), z)
    want = (z.detach() - t) / 15
    assert float((slope - want).abs().max()) < 1e-3 * float(want.abs().max())
    (term,) = trains("opd_survey", divergence="kl_forward", loss_temperature=2.0, scaled=True)[0].updates[0].objective
    assert term.loss.compare == Tempered(kl_forward, 2.0)


def test_6_every_published_method_has_a_place_on_each_axis_and_a_recipe_or_is_for_reference_only():
    assert len({m.arxiv for m in PUBLISHED}) == len(PUBLISHED) > 45
    for method in PUBLISHED:
        check_axes(method.tags)
        assert set(method.tags) == set(AXES) and method.name
        for name in method.recipes:
            catalog.build(name)
    served = {m.name: m.recipes for m in PUBLISHED}
    assert "gkd" in served["GKD"] and served["TAID"] == ("taid",) and served["OPSD"] == ("opsd",)
    assert any(not m.recipes for m in PUBLISHED), "some are for reference only"
    assert {m.name for m in published({"access": "none"})} >= {"SPIN", "OPSD"} and published() == PUBLISHED
    assert all(m.granularity == "sequence" for m in published({"granularity": "sequence", "feedback": "logit"}))
    for wanted in ({"acess": "none"}, {"access": "grey-box"}):
        with pytest.raises(UnknownName):
            published(wanted)


PLACES = {
    "forward_kl": ("logit", "white-box", "token"),
    "opd": ("logit", "white-box", "token"),
    "opd_survey": ("logit", "white-box", "token"),
    "taid": ("logit + self", "white-box", "token"),
    "seqkd": ("text", "black-box", "token"),
    "supervised": ("text", "none", "token"),
    "opsd": ("self", "none", "token"),
    "nca_context_removability": ("self", "none", "token"),
    "lightning_opd": ("logit + text", "black-box", "token"),
    "random_teachers": ("self", "none", "token"),
    "model_collapse_graph": ("text", "none", "token"),
}


@pytest.mark.parametrize("name", PLACES)
def test_6_a_recipes_places_are_worked_out_of_its_tree(name):
    assert tuple(axes(build(name)).values()) == PLACES[name]


def test_6_every_recipe_has_a_place_on_each_axis():
    for name in catalog.names():
        found = axes(build(name))
        assert set(found) == set(AXES)
        for axis, place in found.items():
            assert place and set(place.split(" + ")) <= set(AXES[axis]), (name, axis)
    assert axes(build("pi_distill"))["granularity"] == "sequence" and "outcome" in axes(build("pi_distill"))["feedback"]
    tuned = axes(build("generalization_vs_fidelity", {"tune": True}))
    assert (tuned["feedback"], tuned["access"]) == ("logit", "white-box"), "a tuned copy of the teacher is one"
    assert axes(build("g_opd_exopd"))["access"] in ("white-box", "black-box")
    assert on({"feedback": "logit + self"}, {"feedback": "self"}) and not on({"feedback": "logit"}, {"feedback": "self"})


def listed(*arguments):
    done = subprocess.run([sys.executable, "-m", "tutelage.cli", "list", "--json", *arguments], capture_output=True, text=True, check=False)
    return done


def test_6_the_command_line_lists_recipes_by_their_place():
    done = listed("--axis", "access=none", "--axis", "feedback=self")
    names = [row["name"] for row in json.loads(done.stdout)]
    assert done.returncode == 0 and {"opsd", "random_teachers"} <= set(names) and not set(names) & {"opd", "seqkd", "supervised"}
    for wrong in ("acess=none", "access=grey", "access"):
        refused = listed("--axis", wrong)
        assert refused.returncode == 2 and "expected" in refused.stderr


@limit("opd_survey", "student_share=1: opd; by other names any on-policy divergence.")
def test_on_the_students_answers(step):
    one = step(trains("opd_survey", max_tokens=6)[0])
    same(one, step(trains("opd", max_tokens=6)[0]))
    other = step(trains("opd_survey", divergence="chi_squared", max_tokens=6)[0])
    assert other[2] == one[2] and other[1].loss > one[1].loss


@limit("opd_survey", "divergence=jensen: gkd with the same beta, student_share and temperatures.")
def test_under_jensen(step):
    shared = {"student_share": 0.5, "temperature": 0.9, "loss_temperature": 2.0, "max_tokens": 6}
    for at in range(3):
        same(step(trains("opd_survey", divergence="jensen", share=0.3, **shared)[0], at), step(trains("gkd", beta=0.3, **shared)[0], at))


@limit("opd_survey", "divergence=kl_forward, student_share=0: forward_kl.")
def test_on_the_data(step):
    same(step(trains("opd_survey", divergence="kl_forward", student_share=0.0)[0]), step(trains("forward_kl")[0]))


@pytest.mark.parametrize(
    "arguments",
    [{"divergence": "kl_foward"}, {"divergence": "jensen", "share": 1.5}, {"student_share": -0.1}, {"loss_temperature": 0.0},
     {"divergence": "skewed_forward", "share": 1.0}, {"divergence": "alpha", "share": 1e9}],
)  # fmt: skip
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(SettingError):
        build("opd_survey", arguments)
