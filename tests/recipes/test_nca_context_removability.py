"""NCA, check by check of its card; check 6 is tests/behaviour/test_nca_context_removability.py."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tutelage
from tutelage.core.record import Piece, Record
from tutelage.core.scores import Dense, Head, Lazy
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update
from tutelage.evaluation.metrics.paired import Harm
from tutelage.signals.divergences import kl_reverse
from tutelage.signals.match import Match, Top
from tutelage.voices import Now

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage, size = (KIT[n] for n in ("world", "worst", "setting", "stage", "size"))
rollouts, limit, Fixed = KIT["rollouts"], KIT["limit"], KIT["Fixed"]
teacher_folder, data_folder, new_run = (KIT[n] for n in ("teacher_folder", "data_folder", "new_run"))


def made(**arguments):
    return stage("nca_context_removability", max_tokens=6, **arguments)


def take(world, stage, **how):
    how = {"voices": stage.voices, "views": stage.views, **how}
    return world.gradients(stage.updates[0], **how)


def lazy(logits):
    """The student in another view, its logits given."""
    return Fixed("student", {"next": Lazy(logits, Head(torch.eye(logits.shape[1], dtype=logits.dtype)))})


def test_1_without_the_anchor_it_is_plain_context_distillation(world):
    rows = rollouts(world)
    plain = Update((Term("kl", Match(kl_reverse, p=Read("informed"), on=Top(256, of="student", rest="renormalise"))),))
    whole, bare = made(), made(beta=0.0)
    want, _ = world.gradients(plain, rows=rows, voices=bare.voices, views=bare.views)
    assert worst(take(world, bare, rows=rows)[0], want) < 1e-6
    with torch.no_grad():  # the two views of the start differ, so the anchor pulls
        world.pair.student.model.model.norm.weight *= 1.3
    assert worst(take(world, whole, rows=rows)[0], take(world, bare, rows=rows)[0]) > 1e-3


@limit("nca_context_removability", "beta=0 and all tokens kept: opsd with beta=1 told the same.")
def test_1_as_opsd_has_it(world):
    rows = rollouts(world)
    one, other = made(beta=0.0, num_kept=None), stage("opsd", beta=1.0, max_tokens=6)
    got, _ = take(world, one, rows=rows)
    want, _ = take(world, replace(other, views={"informed": one.views["told"]}), rows=rows)
    assert worst(got, want) < 2e-6 and other.voices["informed"].sees == "informed"


def test_2_each_term_moves_its_own_view_alone(setting):
    s = setting()
    g = torch.Generator().manual_seed(5)
    returned = torch.randn(13, 11, dtype=torch.float64, generator=g).requires_grad_()
    informed = Dense(torch.randn(13, 11, dtype=torch.float64, generator=g).log_softmax(-1))
    ctx = s.context(returned=lazy(returned), informed=Fixed("t", {"next": informed}))
    for term, moves in zip(made(num_kept=5).updates[0].objective, (s.hidden, returned), strict=True):
        grads = torch.autograd.grad(ctx(term.loss).sum(), (s.hidden, returned), allow_unused=True)
        for tensor, grad in zip((s.hidden, returned), grads, strict=True):
            assert (grad is not None and float(grad.abs().max()) > 0) == (tensor is moves)


@limit("nca_context_removability", "an empty context and the current weights as teacher: no gradient, whatever beta.")
def test_3_an_empty_context_anchors_nothing(world):
    for beta in (0.5, 3.0):
        one = made(beta=beta)
        voices = {**one.voices, "informed": Now("student", "told")}
        grads, told = take(world, replace(one, voices=voices, views={"told": lambda r: r}), rows=rollouts(world))
        assert size(grads) < 1e-6 and abs(told.tallies["anchor"].mean) < 1e-6


def test_4_the_anchors_gradient_is_the_difference_of_the_renormalised_views(setting):
    s = setting()
    z = torch.randn(13, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    ctx = s.context(returned=lazy(z))
    (got,) = torch.autograd.grad(ctx(made(num_kept=4).updates[0].objective[1].loss).sum(), z)
    anchor = s.log_q().detach()
    ids = anchor.topk(4, -1).indices
    want = torch.zeros_like(z).scatter(1, ids, (z.gather(1, ids).softmax(-1) - anchor.gather(1, ids).softmax(-1)).detach())
    assert torch.allclose(got, want, atol=1e-10)


def test_5_both_views_are_gathered_at_the_same_tokens(world):
    rows = rollouts(world)
    want, told = take(world, made(), rows=rows)
    for how in ({"padding": "left"}, {"pack": True}, {"size": 2}):
        got, same = take(world, made(), rows=rows, **how)
        assert worst(got, want) < 5e-6 and same.loss == pytest.approx(told.loss, rel=1e-4)


def test_harm_is_counted_over_what_was_right():
    row = lambda a, b: Record("r", (Piece("x"),), {}, {"a": a, "b": b})
    rows = [row(1, 1), row(1, 0), row(1, 1), row(1, 1), row(0, 1)]
    assert Harm("a", "b")(rows) == {"num_rows": 5, "first_right": 0.8, "second_right": 0.8, "harm": 0.25, "rescue": 1.0}
    assert Harm("a", "b")([row(0, 0)])["harm"] is None and Harm("a", "b")([])["first_right"] is None


def test_a_run_measures_harm_over_paired_answers(new_run):
    table = new_run(recipe="nca_context_removability", args={"max_tokens": 4, "verifier": "exact"}, train={"steps": 2, "batch_size": 2, "max_length": 256})
    done = tutelage.run(table)
    found = json.loads(next((done.folder / "systems").glob("*.json")).read_text())["with and without"]
    assert found["harm"]["num_rows"] == found["num_prompts"] > 0 and found["harm"]["first_right"] is not None
