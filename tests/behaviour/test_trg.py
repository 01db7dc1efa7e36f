"""The student's tokens get the teacher's neighbours, on data with rare classes."""

import pytest
import torch

from tutelage.core.seeds import generator

pytestmark = pytest.mark.behaviour

CLASSES, DIM, TRAIN, TEST, TEACHER, SEEDS = 10, 10, 800, 600, 4000, 3


def tailed(y, seed):
    """Places of ``TRAIN`` points whose classes fall from common to rare by a factor of 50."""
    odds = 50.0 ** (-torch.arange(CLASSES) / (CLASSES - 1.0))
    return torch.multinomial(odds[y], TRAIN, generator=generator(seed, "tail")).sort().values


@torch.no_grad()
def overlap(points, student, teacher, first, k=10):
    """The share of a fresh point's k nearest others in the teacher's last states that are so in the student's."""
    near = []
    for model in (student, teacher):
        ids = torch.arange(first, first + TEST)[None] + CLASSES
        x = model.model.base_model(ids).last_hidden_state[0]
        near.append(torch.cdist(x, x).fill_diagonal_(torch.inf).topk(k, largest=False).indices)
    return float((near[0].unsqueeze(2) == near[1].unsqueeze(1)).any(2).float().mean())


def test_trg(lab, tables, points, told, tmp_path):
    bare = {"local_scale": 0.0, "global_scale": 0.0, "inner_scale": 0.0}
    arms = {"KD": bare, "trg, published sharpness": {"local_scale": 20.0}, "trg, sharpness 5": {"local_scale": 20.0, "sharpness": 5.0}}
    figures = {arm: [] for arm in arms}
    for seed in range(SEEDS):
        x, y = points.mixture(seed, CLASSES, DIM, TEACHER + 6000 + TEST, spread=1.0)
        teacher = points.fit(points.model("teacher", x, (64, 64), CLASSES, seed), y[:TEACHER], steps=250)
        chosen = TEACHER + tailed(y[TEACHER : TEACHER + 6000], seed)
        data = [points.rows([int(y[i])], CLASSES, int(i))[0] for i in chosen]
        test = TEACHER + 6000
        rare = y[test:] >= CLASSES // 2
        for arm, more in arms.items():
            models = {"teacher": teacher, "student": points.model("student", x, (16, 64), CLASSES, seed)}
            student = tables.train("trg", models, data, tmp_path, steps=250, batch_size=64, learning_rate=0.003, seed=seed, **more)
            right = points.logits(student, test, TEST).argmax(-1) == y[test:]
            figures[arm].append({
                "neighbours shared": overlap(points, student, teacher, test), "accuracy": float(right.float().mean()),
                "rare classes' accuracy": float(right[rare].float().mean()),
            })  # fmt: skip
    published, sharp = "trg, published sharpness", "trg, sharpness 5"

    def shares(arm, margin):
        return lambda f: f[arm]["neighbours shared"] >= f["KD"]["neighbours shared"] + margin

    def keeps(arm):
        return lambda f: f[arm]["rare classes' accuracy"] >= f["KD"]["rare classes' accuracy"] - 0.02

    told(
        "10 Gaussian classes in 10 dimensions, 800 points from classes up to 50 times as rare as others, a teacher of width 64 that saw "
        "4,000 balanced points, a student that passes through 16 features, a local weight of 20, 250 steps; fresh, balanced points, mean over seeds (range).",
        figures,
        lab.claim("It shares more of the teacher's 10 nearest neighbours than KD, by 0.02", figures, shares(published, 0.02)),
        lab.claim("It shares 0.1 more", figures, shares(published, 0.1), expected=False),
        lab.claim("At sharpness 5 it shares 0.1 more", figures, shares(sharp, 0.1), expected=False),
        lab.claim("Rare classes are not worse, by more than 2 points", figures, keeps(published)),
        lab.claim("At sharpness 5 neither", figures, keeps(sharp), expected=False),
    )  # fmt: skip
