"""A teacher whose logits are eight times as large teaches as before once logits are standardised."""

import pytest
import torch

pytestmark = pytest.mark.behaviour

CLASSES, DIM, TRAIN, TEST, SEEDS = 20, 12, 1500, 3000, 3


def stretched(points, teacher, x, seed):
    """The teacher with logits ``8 z + 5``."""
    made = points.model("teacher", x, (256,), CLASSES, seed)
    made.model.load_state_dict(teacher.model.state_dict())
    with torch.no_grad():
        made.model.head.weight *= 8
        made.model.head.bias.mul_(8).add_(5)
    return made


def test_logit_standardization(lab, tables, points, told, tmp_path):
    arms = {"plain, T=2": ("forward_kl", {"temperature": 2.0}), "standardised, T=2": ("logit_standardization", {"temperature": 2.0})}
    figures = {f"{arm}, {how}": [] for how in ("teacher as it is", "logits 8 z + 5") for arm in arms}
    for seed in range(SEEDS):
        x, y = points.mixture(seed, CLASSES, DIM, 5000 + TRAIN + TEST, spread=0.9)
        first, test = 5000, 5000 + TRAIN
        teacher = points.fit(points.model("teacher", x, (256,), CLASSES, seed), y[:first], steps=250)
        data = points.rows(y[first:test].tolist(), CLASSES, first)
        for how, who in (("teacher as it is", teacher), ("logits 8 z + 5", stretched(points, teacher, x, seed))):
            for arm, (recipe, more) in arms.items():
                models = {"teacher": who, "student": points.model("student", x, (16,), CLASSES, seed)}
                student = tables.train(recipe, models, data, tmp_path, steps=200, batch_size=128, learning_rate=0.01, seed=seed, **more)
                figures[f"{arm}, {how}"].append({"accuracy": points.accuracy(student, y[test:], test)})

    def lost(arm):
        return lambda f: f[f"{arm}, teacher as it is"]["accuracy"] - f[f"{arm}, logits 8 z + 5"]["accuracy"]

    told(
        "20 Gaussian classes in 12 dimensions, 1,500 points, a student of width 16 and a teacher of width 256, 200 steps; accuracy on "
        "fresh points, mean over seeds (range).",
        figures,
        lab.claim("Standardised, the teacher's scale changes nothing (below 0.002)", figures, lambda f: abs(lost("standardised, T=2")(f)) < 0.002),
        lab.claim("Plain distillation loses accuracy", figures, lambda f: lost("plain, T=2")(f) > 0),
        lab.claim("Plain distillation loses 2.5 points", figures, lambda f: lost("plain, T=2")(f) >= 0.025, expected=False),
    )  # fmt: skip
