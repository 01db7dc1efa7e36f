"""Swing distillation, check by check of its card; check 6 is tests/behaviour/test_swing_distillation.py."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core.errors import SettingError
from tutelage.core.record import Piece, Record
from tutelage.core.signal import Read
from tutelage.evaluation.metrics.exposure import exposure
from tutelage.recipes.swing_distillation import CONTACTS, swing_distillation
from tutelage.signals.private import Marked

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, setting, stage = (KIT[n] for n in ("world", "worst", "setting", "stage"))
context, limit, trains, step, same = (KIT[n] for n in ("context", "limit", "trains", "step", "same"))


def update(**arguments):
    return stage("swing_distillation", **arguments).updates[0]


def marked(world, private):
    """The rows with a private score for each token of their answers."""
    out = []
    for record in world.records:
        ids = tuple(5 + k % 20 for k in range(4))
        piece = Piece("", "assistant", part="answer", trains=True, ids=ids, notes={"private": tuple(private)})
        out.append(Record(record.id, (record.pieces[0], piece)))
    return out


def target(world, rows, **arguments):
    """What the loss compares with: Float[U C]."""
    ctx = context(world, rows)
    with torch.no_grad():
        return ctx.log_probs(update(private="private", **arguments).objective[0].loss.p).double()


@limit("swing_distillation", "nothing private: forward_kl with the same temperature.")
def test_1_without_anything_private_it_is_plain_distillation(world, step):
    same(step(trains("swing_distillation", temperature=3.0)[0]), step(trains("forward_kl", temperature=3.0)[0]), 5e-6)
    rows = marked(world, (0, 0, 0, 0))
    got, _ = world.gradients(update(private="private"), rows=rows)
    want, _ = world.gradients(stage("forward_kl", temperature=2.0).updates[0], rows=rows)
    assert worst(got, want) < 2e-6


def test_2_a_wholly_private_token_gets_a_uniform_target(world):
    rows = marked(world, (1, 1, 1, 1))
    said = target(world, rows, most_temperature=9e3, noise=0.0).exp()
    assert float((said - 1 / said.shape[1]).abs().max()) < 1e-4
    got, _ = world.gradients(update(private="private", most_temperature=9e3, noise=0.0), rows=rows)
    assert all(bool(torch.isfinite(g).all()) for g in got.values())


def test_3_targets_are_distributions_and_public_ones_know_no_noise(world):
    rows = marked(world, (0, 1, 0, 0.5))
    quiet, loud = (target(world, rows, noise=b) for b in (0.0, 0.3))
    assert torch.allclose(loud.exp().sum(-1), torch.ones(len(loud), dtype=torch.float64), atol=1e-5)
    for place in range(len(loud)):
        assert torch.equal(loud[place], quiet[place]) == (place % 4 in (0, 2))


def test_4_the_same_context_gets_the_same_noise_and_others_another(world):
    rows = marked(world, (1, 1, 1, 1))
    one = target(world, rows)
    assert torch.equal(one, target(world, rows)), "in another epoch"
    assert torch.allclose(one[4:8], target(world, rows[1:2]), atol=1e-5), "in another batch"
    assert not torch.allclose(one, target(world, rows, key="another"), atol=1e-3)
    noise = one.exp() - target(world, rows, noise=0.0).exp()
    first, second = noise[0] - noise[0].mean(), noise[1] - noise[1].mean()
    assert abs(float((first * second).sum() / first.norm() / second.norm())) < 0.3


def test_4_packing_and_padding_leave_the_noise_as_it_is(world):
    rows = marked(world, (0, 1, 1, 0))
    want, _ = world.gradients(update(private="private"), rows=rows)
    for how in ({"padding": "left"}, {"pack": True}, {"size": 2}):
        assert worst(world.gradients(update(private="private"), rows=rows, **how)[0], want) < 5e-6


def test_5_exposure_of_known_ranks():
    losses = torch.arange(10_000.0)
    assert exposure(losses, 0) == pytest.approx(math.log2(10_000))
    assert exposure(losses, 9_999) == pytest.approx(0, abs=1e-9)
    every = [exposure(losses, i) for i in range(0, 10_000, 7)]
    assert sum(every) / len(every) == pytest.approx(math.log2(math.e), abs=0.02)
    assert exposure(torch.zeros(4), 2) == pytest.approx(math.log2(4) - math.log2(2.5)), "ties share the middle rank"
    with pytest.raises(SettingError):
        exposure(losses, 10_000)


def test_the_digits_are_private_and_not_what_stands_before_them(world):
    answer = "call +49 30 123456 or mail a.b@c.org now"
    record = Record("r", (Piece("?", "user"), Piece(answer, "assistant", part="answer", trains=True)))
    ctx = context(world, [record])
    flags = ctx(Marked(CONTACTS))
    words = [world.tokenizer.decode([i]) for i in ctx.target("tokens").tolist()]
    text = "".join(w for w, f in zip(words, flags.tolist(), strict=True) if f)
    assert "123456" in text and "a.b@c.org" in text and "call" not in text and "now" not in text
    with pytest.raises(SettingError, match="regular expression"):
        Marked("(")


def test_labels_are_left_out_where_a_token_is_private(world):
    rows = marked(world, (0, 1, 0, 1))
    _, told = world.gradients(update(private="private", label_scale=0.5), rows=rows)
    alone = update(private="private", label_scale=0.5)
    label = next(t for t in alone.objective if t.name == "labels")
    ctx = context(world, rows)
    assert ctx.still(label.weight).tolist() == [1, 0, 1, 0] * 5 and told.tallies["labels"].mean > 0


def test_settings_are_checked():
    for wrong in ({"temperature": 0.0}, {"most_temperature": 1.0}, {"noise": -1.0}, {"label_scale": -1.0}):
        with pytest.raises(SettingError):
            swing_distillation(**wrong)
    loss = update(noise=0.0).objective[0].loss
    assert len(loss.p.through) == 1 and isinstance(loss.p, Read) and replace(loss) == loss
