"""With noisy labels a ranking weighed by a good teacher is worth more than the labels alone."""

import pytest
import torch

from tutelage.core.seeds import generator

pytestmark = pytest.mark.behaviour

CLASSES, DIM, TRAIN, TEST, NOISE, SEEDS = 20, 12, 1500, 3000, 0.3, 3


def test_pld(lab, tables, points, told, tmp_path):
    arms = {"labels alone": ("supervised", {}), "pld": ("pld", {"num_ranked": None}), "pld, 5 ranked": ("pld", {"num_ranked": 5}),
            "forward KL": ("forward_kl", {})}  # fmt: skip
    figures = {"the teacher": [], **{f"{arm}, {how}": [] for how in ("noisy", "clean") for arm in arms}}
    for seed in range(SEEDS):
        x, y = points.mixture(seed, CLASSES, DIM, 6000 + TRAIN + TEST, spread=0.9)
        first, test = 6000, 6000 + TRAIN
        teacher = points.fit(points.model("teacher", x, (256,), CLASSES, seed), y[:first], steps=300)
        figures["the teacher"].append({"accuracy": points.accuracy(teacher, y[test:], test)})
        g = generator(seed, "noise")
        wrong = torch.rand(TRAIN, generator=g) < NOISE
        noisy = torch.where(wrong, torch.randint(CLASSES, (TRAIN,), generator=g), y[first:test])
        for how, labels in (("noisy", noisy), ("clean", y[first:test])):
            data = points.rows(labels.tolist(), CLASSES, first)
            for arm, (recipe, more) in arms.items():
                student = points.model("student", x, (16,), CLASSES, seed)
                student = tables.train(
                    recipe, {"teacher": teacher, "student": student}, data, tmp_path, steps=200, batch_size=128, learning_rate=0.01,
                    seed=seed, **more,
                )  # fmt: skip
                figures[f"{arm}, {how}"].append({"accuracy": points.accuracy(student, y[test:], test)})

    def above(a, b, margin):
        return lambda f: f[a]["accuracy"] > f[b]["accuracy"] + margin

    def mean(name):
        return sum(f["accuracy"] for f in figures[name]) / SEEDS

    told(
        "20 Gaussian classes in 12 dimensions, 1,500 points, 30 % of the labels drawn anew; a student of width 16, a teacher of width "
        "256 that saw 6,000 clean points; 200 steps; accuracy on fresh points, mean over seeds (range).",
        figures,
        lab.claim("With noisy labels it beats labels alone by 4 points", figures, above("pld, noisy", "labels alone, noisy", 0.04)),
        lab.Claim("By 6 points in the mean", (mean("pld, noisy") > mean("labels alone, noisy") + 0.06,)),
        lab.claim("With clean labels it beats labels alone", figures, above("pld, clean", "labels alone, clean", 0.0)),
        lab.claim("With clean labels it beats labels alone by 2 points", figures, above("pld, clean", "labels alone, clean", 0.02), expected=False),
    )  # fmt: skip
