"""A student of a random network: its features are worth more than its teacher's, if batch statistics move it."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from tutelage.evaluation.metrics.probe import linear_probe

pytestmark = pytest.mark.behaviour
SEEDS, TRAIN, FIT, TEST = 3, 4096, 1000, 2000
ARMS = {
    "a = 0": (True, 0.0, False), "a = 1": (True, 1.0, False), "a = 0, without batch statistics": (False, 0.0, False),
    "a = 0, trained on noise": (True, 0.0, True),
}  # fmt: skip


def module(name):
    spec = importlib.util.spec_from_file_location(f"behaviour_{name}", Path(__file__).with_name(f"{name}.py"))
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


def test_random_teachers(lab, told, tmp_path):
    encoders, rounds = module("encoders"), module("rounds")
    figures = {name: [] for name in ARMS}
    for seed in range(SEEDS):
        points, label = encoders.clusters(seed, TRAIN + FIT + TEST)
        noise = points.clone()
        noise[:TRAIN] = torch.randn(TRAIN, points.shape[1], generator=torch.Generator().manual_seed(seed)) * points.std()
        fit, test = torch.arange(TRAIN, TRAIN + FIT), torch.arange(TRAIN + FIT, len(points))

        def accuracy(model, fit=fit, test=test, label=label):
            said = linear_probe(encoders.features(model, fit), label[fit], encoders.features(model, test), steps=40)
            return 100 * float((said == label[test]).double().mean())

        for name, (statistics, away, noisy) in ARMS.items():
            start = encoders.encoder("student", noise if noisy else points, statistics)
            ws = rounds.run("random_teachers", {"student": start}, {"train": encoders.rows(TRAIN)}, tmp_path, steps=150 if statistics else 20, seed=seed,
                            batch_size=4, learning_rate=3e-3, given={"away": away})  # fmt: skip
            teacher, student = (accuracy(ws.models[slot]) for slot in ("random", "student"))
            figures[name].append({"teacher": teacher, "student": student, "gain": student - teacher})
    def mean(name):
        return sum(f["gain"] for f in figures[name]) / SEEDS

    told(
        "Ten classes bent by a random tanh network, 64 dimensions; encoders of three layers of 128 under a head of 512; 150 steps of 256 "
        "points without labels; accuracy of a linear probe in per cent, 1,000 points to fit and 2,000 to test, mean over seeds (range); 20 steps without batch statistics.",
        figures,
        lab.Claim("On average the student is at least 1.5 points above its random teacher from the teacher's own weights", (mean("a = 0") >= 1.5,)),
        lab.Claim("And from an independent draw", (mean("a = 1") >= 1.5,)),
        lab.claim("From both starts it is 1.5 points above on every seed", figures, lambda f: min(f["a = 0"]["gain"], f["a = 1"]["gain"]) >= 1.5, expected=False),
        lab.claim("Without batch statistics there is no gain", figures, lambda f: abs(f["a = 0, without batch statistics"]["gain"]) < 0.5),
        lab.claim("On noise the gain is smaller", figures, lambda f: f["a = 0, trained on noise"]["gain"] < f["a = 0"]["gain"]),
    )
