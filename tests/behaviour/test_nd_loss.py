"""The push turns the student's features to its classes' means in the teacher and makes them long."""

import pytest
import torch

from tutelage.core.record import Piece, Record

pytestmark = pytest.mark.behaviour

CLASSES, DIM, TRAIN, TEST, WIDTH, SEEDS = 10, 8, 400, 3000, 64, 3


def whole(labels, first):
    """Points as rows of a class: the same token twice, so that the mean of a row's states is its point's."""
    ids = range(CLASSES + first, CLASSES + first + len(labels))
    return [Record(f"x{i}", (Piece(f"x{i - CLASSES}", trains=True, ids=(i, i)),), {"label": f"c{y}"}) for i, y in zip(ids, labels, strict=True)]


@torch.no_grad()
def states(model, count, first=0):
    return model.model.base_model(torch.arange(first, first + count)[None] + CLASSES).last_hidden_state[0]


def figures_of(student, head, teacher, labels, first):
    """Accuracy, cosine to the class's mean in the teacher, and norms, on fresh points."""
    mean = torch.stack([states(teacher, TRAIN)[labels[:TRAIN] == c].mean(0) for c in range(CLASSES)])
    y, f, t = labels[first:], states(student, TEST, first), states(teacher, TEST, first)
    return {
        "accuracy": float((head(f).argmax(-1) == y).float().mean()),
        "cosine": float(torch.cosine_similarity(f, mean[y], dim=-1).mean()),
        "norm": float(f.norm(dim=-1).mean()),
        "teacher's norm": float(t.norm(dim=-1).mean()),
    }


def test_nd_loss(lab, tables, points, told, tmp_path):
    figures = {"KD, T=4": [], "with the push": []}
    for seed in range(SEEDS):
        x, y = points.mixture(seed, CLASSES, DIM, TRAIN + TEST + 3000, spread=2.0)
        teacher = points.fit(points.model("teacher", x, (WIDTH,), CLASSES, seed), y[TRAIN + TEST :], TRAIN + TEST, steps=250)
        names = tuple(f"c{i}" for i in range(CLASSES))
        for arm, scale in zip(figures, (0.0, 4.0), strict=True):
            student = points.model("student", x, (6, WIDTH), CLASSES, seed)
            made, head = tables.train(
                "nd_loss", {"teacher": teacher, "student": student}, whole(y[:TRAIN].tolist(), 0), tmp_path, steps=220, batch_size=64,
                learning_rate=0.015, seed=seed, slots=("student", "student.classes"), nd_scale=scale, label="label", classes=names,
            )  # fmt: skip
            figures[arm].append(figures_of(made, head, teacher, y[: TRAIN + TEST], TRAIN))
    told(
        "10 Gaussian classes in 8 dimensions, 400 points as rows of a class; a teacher of width 64, a student that passes through 6 "
        "features, the push at 4, 220 steps; cosine to the class's mean in the teacher and norms on fresh points, mean over seeds (range).",
        figures,
        lab.claim("The cosine to the class's mean is at least 0.85", figures, lambda f: f["with the push"]["cosine"] >= 0.85, expected=False),
        lab.claim("It is above that of KD by 0.25", figures, lambda f: f["with the push"]["cosine"] > f["KD, T=4"]["cosine"] + 0.25),
        lab.claim("Features are longer than the teacher's", figures, lambda f: f["with the push"]["norm"] > f["with the push"]["teacher's norm"]),
        lab.claim("Accuracy is within a point of KD's", figures, lambda f: f["with the push"]["accuracy"] >= f["KD, T=4"]["accuracy"] - 0.01),
    )  # fmt: skip
