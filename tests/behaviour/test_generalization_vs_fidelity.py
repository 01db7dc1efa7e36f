"""Students of three sizes, with and without a teacher: what a gain goes with, and what noise on the teacher costs."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from tutelage.core.seeds import generator
from tutelage.evaluation.statistics import correlate

pytestmark = pytest.mark.behaviour
SEEDS, CLASSES, DIM, TRAIN, TEST, WIDTHS = 3, 10, 16, 240, 2000, (3, 8, 32)


def module(name):
    spec = importlib.util.spec_from_file_location(f"behaviour_{name}", Path(__file__).with_name(f"{name}.py"))
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


def test_generalization_vs_fidelity(lab, told, points, tmp_path):
    rounds = module("rounds")
    figures, cells = {f"width {w}": [] for w in WIDTHS}, []
    for seed in range(SEEDS):
        x, label = points.mixture(seed, CLASSES, DIM, TRAIN + TEST + 4000, spread=0.7)
        teacher = points.fit(points.model("teacher", x, (64,), CLASSES, seed=seed), label[TRAIN + TEST :], TRAIN + TEST, steps=300, seed=seed)
        wrong = torch.rand(TRAIN, generator=generator(seed, "wrong")) < 0.2
        seen = torch.where(wrong, torch.randint(CLASSES, (TRAIN,), generator=generator(seed, "labels")), label[:TRAIN])
        rows, truth = points.rows(seen.tolist(), CLASSES), label[TRAIN : TRAIN + TEST]
        said = points.logits(teacher, TRAIN, TEST).log_softmax(-1)
        for width in WIDTHS:
            start, found = points.model("student", x, (width,), CLASSES, seed=seed + width), {}
            for arm, (name, given) in {
                "labels": ("supervised", {}),
                "teacher": ("generalization_vs_fidelity", {}),
                "noisy teacher": ("generalization_vs_fidelity", {"noise": 5.0}),
            }.items():
                ws = rounds.run(name, {"teacher": teacher, "student": start}, {"train": rows}, tmp_path, steps=60, seed=seed, batch_size=48,
                                learning_rate=0.02, given=given)  # fmt: skip
                made = ws.models["student"]
                found[arm] = points.accuracy(made, truth, TRAIN)
                own = points.logits(made, TRAIN, TEST).log_softmax(-1)
                if arm != "labels":
                    cells.append({"method": arm, "task": "points", "size": width, "accuracy": found[arm], "baseline": found["labels"],
                                  "teacher_accuracy": points.accuracy(teacher, truth, TRAIN),
                                  "agreement": float((own.argmax(-1) == said.argmax(-1)).double().mean()),
                                  "fidelity": -float((said.exp() * (said - own)).sum(-1).mean())})  # fmt: skip
            figures[f"width {width}"].append({**found, "gain": found["teacher"] - found["labels"]})
    report = correlate([c for c in cells if c["method"] == "teacher"])
    fidelity, size = report["fidelity_accuracy"], report["size_gain"]
    small, *_ = figures
    told(
        "Ten Gaussian classes in 16 dimensions, 240 points of which a fifth has a random label; students of one hidden layer, 60 steps; "
        "accuracy on 2,000 points, mean over seeds (range). Rank correlation of the nine students' fidelity with their accuracy "
        f"{fidelity['statistic']:.2f} ({fidelity['low']:.2f} to {fidelity['high']:.2f}), of size with gain {size['statistic']:.2f}.",
        figures,
        lab.claim("Every size gains by the teacher", figures, lambda f: min(row["gain"] for row in f.values()) > 0),
        lab.claim("The smallest student gains most", figures, lambda f: f[small]["gain"] == max(row["gain"] for row in f.values()), expected=False),
        lab.claim("Noise of 5 nats on the teacher's logits costs the smallest accuracy", figures, lambda f: f[small]["noisy teacher"] < f[small]["teacher"]),
        lab.Claim("The report has the correlation of fidelity and accuracy with its interval", (-1 <= fidelity["low"] <= fidelity["high"] <= 1,)),
    )
