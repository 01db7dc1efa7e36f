"""Gated, mutual learning is no worse in accuracy and calibration."""

import pytest

pytestmark = pytest.mark.behaviour

CLASSES, DIM, TRAIN, TEST, SEEDS = 10, 10, 600, 4000, 5


def calibration(points, model, labels, first):
    """The expected calibration error over 15 equal bins of confidence."""
    log_p = points.logits(model, first, len(labels)).log_softmax(-1)
    sure, guess = log_p.exp().max(-1)
    place = (sure * 15).long().clamp_max(14)
    total = 0.0
    for b in range(15):
        inside = place == b
        if inside.any():
            total += float(inside.float().mean()) * abs(float((guess == labels)[inside].float().mean()) - float(sure[inside].mean()))
    return total


def test_bd_kd(lab, tables, points, told, tmp_path):
    arms = {"mutual learning": {"direction": "forward"}, "bd_kd": {}}
    figures = {arm: [] for arm in arms}
    for seed in range(SEEDS):
        x, y = points.mixture(seed, CLASSES, DIM, TRAIN + TEST, spread=0.9)
        data = points.rows(y[:TRAIN].tolist(), CLASSES)
        for arm, more in arms.items():
            models = {"teacher": points.model("teacher", x, (256,), CLASSES, seed), "student": points.model("student", x, (16,), CLASSES, seed)}
            student = tables.train("bd_kd", models, data, tmp_path, steps=150, batch_size=128, learning_rate=0.01, seed=seed, **more)
            figures[arm].append({"accuracy": points.accuracy(student, y[TRAIN:], TRAIN), "ECE": calibration(points, student, y[TRAIN:], TRAIN)})

    def mean(arm, what):
        return sum(f[what] for f in figures[arm]) / SEEDS

    told(
        "10 Gaussian classes in 10 dimensions, 600 points; a teacher of width 256 and a student of width 16, both drawn at random and "
        "trained together for 150 steps; accuracy and calibration error of the student on fresh points, mean over seeds (range).",
        figures,
        lab.claim("The mean accuracy is at least mutual learning's less 0.2 points", figures,
                  lambda f: mean("bd_kd", "accuracy") >= mean("mutual learning", "accuracy") - 0.002),
        lab.claim("The mean calibration error is at most mutual learning's plus 0.5 points", figures,
                  lambda f: mean("bd_kd", "ECE") <= mean("mutual learning", "ECE") + 0.005, expected=False),
    )  # fmt: skip
