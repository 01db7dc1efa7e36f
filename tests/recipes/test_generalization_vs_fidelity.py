"""Generalisation and fidelity, check by check of the card; check 6 is tests/behaviour/test_generalization_vs_fidelity.py."""

from __future__ import annotations

import copy
import itertools
import math
import random
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core import node
from tutelage.core.catalog import build
from tutelage.core.errors import NeedError, SettingError
from tutelage.core.recipe import Change, Train
from tutelage.core.record import Piece, Record
from tutelage.core.signal import Read
from tutelage.data.collate import split
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.stash import Stash
from tutelage.evaluation.metrics.faithful import Faithful, conclusion
from tutelage.evaluation.statistics import anova, bootstrap, correlate, incomplete_beta, paired_t, ranks, spearman
from tutelage.recipes.generalization_vs_fidelity import generalization_vs_fidelity
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match
from tutelage.signals.noisy import LogitNoise
from tutelage.signals.readouts import Entropy

KIT = runpy.run_path(str(Path(__file__).with_name("kit.py")))
world, worst, limit, trains, step, same = (KIT[n] for n in ("world", "worst", "limit", "trains", "step", "same"))
size, context = KIT["size"], KIT["context"]


def said(number, answer, taught, truth):
    return Record(f"r{number}", (Piece("q"), Piece(answer, trains=True)), {"taught": taught, "reference": truth})


def test_1_a_student_that_is_its_teacher_agrees_wholly(world):
    world.ws.models["student"] = copy.deepcopy(world.ws.models["teacher"])
    *_, report = generalization_vs_fidelity(max_tokens=6).stages
    rows = [replace(r.without_answer(), fields={"reference": "x"}) for r in world.records]
    found = Faithful(means=("kl", "top1"))(list(run_steps(report.systems["both"], rows, world.ws)))
    assert found["agreement"] == found["bleu"] == found["top1"] == 1 and abs(found["kl"]) < 1e-6
    assert found["num_rows"] == len(rows) and found["student_accuracy"] == found["teacher_accuracy"]


def test_1_right_in_other_words_is_accurate_and_agrees_but_is_not_faithful():
    rows = [said(i, f"So it is {i + 3}", f"we add one and two and {i} which gives us #### {i + 3}", f"#### {i + 3}") for i in range(5)]
    found = Faithful()(rows)
    assert found["student_accuracy"] == found["agreement"] == found["both_right"] == 1 and found["bleu"] < 0.1


def test_2_agreement_is_not_accuracy():
    draw = random.Random(0)
    rows = []
    for i in range(20000):
        truth = draw.randrange(4)
        own, taught = (truth if draw.random() < 0.5 else draw.choice([x for x in range(4) if x != truth]) for _ in range(2))
        rows.append(said(i, f"{own}", f"{taught}", f"{truth}"))
    found = Faithful()(rows)
    assert found["agreement"] == pytest.approx(0.5 * 0.5 + 0.5 * 0.5 / 3, abs=0.012)
    assert found["both_right"] == pytest.approx(0.25, abs=0.01) and found["both_wrong_alike"] == pytest.approx(1 / 12, abs=0.01)
    assert found["agreement"] == pytest.approx(found["both_right"] + found["both_wrong_alike"])


def test_2_an_answer_without_a_number_is_counted_as_such():
    found = Faithful()([said(0, "I do not know", "4", "4"), said(1, "3", "3", "4")])
    assert found["unparsable"] == 0.5 and found["agreement"] == 0.5 and found["both_wrong_alike"] == 0.5
    assert conclusion("a  b") == "a b" and conclusion("so 3.50") == conclusion("7/2") and Faithful()([])["agreement"] is None


ARRAYS = ([1.0, 2.0, 2.0, 5.0, 9.0, 3.5, 2.0], [2.0, 1.0, 4.0, 4.0, 8.0, 3.0, 0.5], [7.0, 3.0, 1.0, 3.0, 2.0, 2.5, 9.0])


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_3_statistics_are_those_of_scipy_with_ties(seed):
    stats, special = pytest.importorskip("scipy.stats"), pytest.importorskip("scipy.special")
    g = random.Random(seed)
    a, b, c = ARRAYS if seed is None else tuple([round(g.gauss(i / 3, 1), 1) for _ in range(12)] for i in range(3))
    for one, other in itertools.permutations((a, b, c), 2):
        want = stats.spearmanr(one, other)
        assert spearman(one, other) == pytest.approx((want.statistic, want.pvalue), rel=1e-10)
        want = stats.ttest_rel(one, other)
        assert paired_t(one, other) == pytest.approx((want.statistic, want.pvalue), rel=1e-10)
    want = stats.f_oneway(a, b[:-2], c)
    assert anova(a, b[:-2], c) == pytest.approx((want.statistic, want.pvalue), rel=1e-10)
    assert ranks(a) == pytest.approx(stats.rankdata(a).tolist())
    for x, y, z in itertools.product((0.5, 1.0, 3.5, 40.0), (0.5, 2.0, 17.0), (0.0, 1e-6, 0.1, 0.5, 0.93, 1.0)):
        assert incomplete_beta(x, y, z) == pytest.approx(float(special.betainc(x, y, z)), rel=1e-10, abs=1e-300)


def test_3_what_does_not_vary_has_no_statistic_and_too_little_is_refused():
    assert math.isnan(paired_t([1, 2], [0, 1]).p) and math.isnan(anova([1, 1], [2, 2]).p) and math.isnan(spearman([1, 1, 1], [1, 2, 3]).p)
    assert spearman([1, 2, 3, 4], [2, 4, 6, 9]) == (1.0, 0.0)
    for wrong in (lambda: paired_t([1], [1]), lambda: anova([1, 2]), lambda: spearman([1, 2], [1, 2]), lambda: bootstrap(min, [], [])):
        with pytest.raises(SettingError):
            wrong()


def cells(num=40, seed=0):
    g = random.Random(seed)
    out = []
    for i in range(num):
        size, hard = g.choice([16, 32, 64]), i % 2
        gain = 0.3 / size * 16 + g.gauss(0, 0.03)
        base = 0.3 + 0.3 * hard
        out.append({"method": ("fkl", "rkl")[i % 4 // 2], "task": ("easy", "hard")[hard], "size": size, "accuracy": base + gain, "baseline": base,
                    "teacher_accuracy": 0.9, "agreement": base + gain + g.gauss(0, 0.05), "fidelity": g.random()})  # fmt: skip
    return out


def test_3_the_report_finds_what_goes_with_what_within_tasks():
    told = correlate(cells())
    assert told["num"] == 40 and told["gain"]["p"] < 1e-6 and told["methods"]["p"] > 0.01
    assert told["size_gain"]["statistic"] < -0.6 and told["size_gain"]["high"] < -0.3
    assert told["agreement_accuracy"]["statistic"] > 0.5 and abs(told["fidelity_accuracy"]["statistic"]) < 0.35
    assert math.isnan(told["teacher_gain"]["statistic"]) and math.isnan(told["teacher_gain"]["low"])
    for name in ("size_gain", "agreement_accuracy", "fidelity_accuracy"):
        assert -1 <= told[name]["low"] <= told[name]["statistic"] <= told[name]["high"] <= 1
    moved = [{**c, "accuracy": c["accuracy"] + 5 * (c["task"] == "hard"), "baseline": c["baseline"] + 5 * (c["task"] == "hard")} for c in cells()]
    assert correlate(moved)["agreement_accuracy"]["statistic"] == pytest.approx(told["agreement_accuracy"]["statistic"]), "ranked within a task"
    assert correlate(cells()) == told and "methods" not in correlate([{**c, "method": "one"} for c in cells()])


def test_4_the_square_of_the_temperature_keeps_the_gradients_size_and_1_is_the_plain_divergence(step):
    one, two = (step(trains("generalization_vs_fidelity", temperature=t)[0]) for t in (1.0, 2.0))
    assert one[2] == two[2] and 0.3 < size(two[0]) / size(one[0]) < 3
    (term,) = trains("generalization_vs_fidelity", temperature=2.0)[0].updates[0].objective
    assert term.loss.compare.temperature == 2 and term.loss.compare.scaled and term.scale == 1
    z, p = (torch.randn(4, 6, generator=torch.Generator().manual_seed(s), dtype=torch.float64).log_softmax(-1) for s in (0, 1))
    want = 4 * kl_forward((z / 2).log_softmax(-1), (p / 2).log_softmax(-1))
    assert torch.allclose(term.loss.compare(z, p), want)


def test_5_no_noise_is_the_clean_run_bit_for_bit(step):
    one, other = step(trains("generalization_vs_fidelity", noise=0.0)[0]), step(trains("forward_kl")[0])
    assert one[2] == other[2] and all(torch.equal(one[0][n], other[0][n]) for n in one[0])


def noisy(world, deviation, key="tutelage"):
    return Read("teacher", through=(LogitNoise(deviation, key),))


def test_5_noise_raises_the_floor_and_is_one_of_the_context(world):
    with torch.no_grad():
        ctx = context(world, world.records)
        clean, far = ctx.log_probs(Read("teacher")), ctx.log_probs(noisy(world, 5.0))
        again = context(world, world.records).log_probs(noisy(world, 5.0))
        other = ctx.log_probs(noisy(world, 5.0, "another"))
        assert torch.equal(far, again) and not torch.equal(far, other)
        assert float((far - clean).std()) > 4
        floor = [float((clean.exp() * (clean - ctx.log_probs(noisy(world, s)))).sum(-1).mean()) for s in (1.0, 2.0, 5.0)]
        assert 0 < floor[0] < floor[1] < floor[2], "what the best student of the noisy teacher is worth to the clean one"
        small = ctx.log_probs(noisy(world, 1e-3))
        assert torch.allclose(small, clean, atol=0.02)
        assert torch.allclose(far.exp().sum(-1), torch.ones(len(far)), atol=1e-5)
        rows = torch.cat([context(world, part).log_probs(noisy(world, 5.0)) for part in split(world.records, 1)])
        assert torch.allclose(rows, far, atol=1e-4), "however the rows are split"
    with pytest.raises(NeedError, match="scores"):
        LogitNoise(1.0)(torch.zeros(2), None)


def test_5_the_noise_is_the_same_in_tiles_and_in_both_directions(world, monkeypatch):
    (stage,) = trains("generalization_vs_fidelity", noise=2.0)
    want, told = world.gradients(stage.updates[0])
    monkeypatch.setattr(node, "TILE_ELEMENTS", 700)
    monkeypatch.setattr(node, "CHUNK_ELEMENTS", 3000)
    for how in ({}, {"size": 1}, {"size": 2}):
        got, same_told = world.gradients(stage.updates[0], **how)
        assert worst(got, want) < 2e-5 and same_told.loss == pytest.approx(told.loss, rel=1e-5)
    dense = context(world, world.records)
    q, p = dense.log_probs(Read("student")), dense.log_probs(noisy(world, 2.0))
    assert told.loss == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean().detach()), rel=1e-4)
    assert float(dense(Entropy(noisy(world, 2.0))).mean()) > 0 and isinstance(Match(kl_forward, p=noisy(world, 2.0)), Match)


def test_the_teachers_answer_is_put_aside_and_never_over_the_reference(world):
    rows = list(run_steps((Stash("taught"),), world.records, world.ws))
    assert [r.fields["taught"] for r in rows] == [r.pieces[-1].content for r in world.records]
    assert not any(True for r in rows for _ in r.trained())
    with pytest.raises(SettingError, match="name of its own"):
        Stash("reference")


def test_a_tuned_teacher_is_a_copy_that_learns_first_and_is_what_is_compared():
    stages = generalization_vs_fidelity(tune=True).stages
    assert [type(s) for s in stages[:3]] == [Change, Train, Train] and stages[1].updates[0].moves == ("tuned",)
    assert stages[2].updates[0].objective[0].loss.p.who == "tuned" and stages[3].systems["both"][0].who == "tuned"


@limit("generalization_vs_fidelity", "noise=0, student_share=0: jensen with the same beta at temperature 1.")
def test_on_the_data(step):
    for beta in (0.0, 0.5, 1.0):
        same(step(trains("generalization_vs_fidelity", beta=beta)[0]), step(trains("jensen", beta=beta)[0]))


@limit("generalization_vs_fidelity", "noise=0, beta=0.5, student_share=0.5: gkd at temperatures of 1.")
def test_on_the_mixture(step):
    for at in range(3):
        one = step(trains("generalization_vs_fidelity", beta=0.5, student_share=0.5, max_tokens=6)[0], at)
        same(one, step(trains("gkd", temperature=1.0, max_tokens=6)[0], at))


def test_impossible_settings_are_refused():
    for arguments in ({"student_share": 1.1}, {"noise": -1.0}, {"beta": 2.0}, {"temperature": 0.0}, {"noise": 1e5}):
        with pytest.raises(SettingError):
            build("generalization_vs_fidelity", arguments)
