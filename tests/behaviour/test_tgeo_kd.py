"""The learned share turns away from a teacher where it is wrong."""

import copy

import pytest
import torch

from tutelage.core.context import Context
from tutelage.core.seeds import generator
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.recipes.tgeo_kd import tgeo_kd
from tutelage.voices.says import Says

pytestmark = pytest.mark.behaviour

CLASSES, DIM, TRAIN, HELD, TEST, TEACHER, WRONG, SEEDS = 4, 8, 800, 200, 3000, 3000, 0.35, 3


def misled(points, x, y, seed):
    """A teacher that takes some of the first points for those of the next class, and which."""
    wrong = torch.rand(TRAIN, generator=generator(seed, "wrong")) < WRONG
    centres = torch.stack([x[y == c].mean(0) for c in range(CLASSES)])
    seen = x.clone()
    seen[:TRAIN][wrong] = centres[(y[:TRAIN] + 1) % CLASSES][wrong]
    start = TRAIN + HELD + TEST
    return points.fit(points.model("teacher", seen, (64,), CLASSES, seed), y[start:], start, steps=120), wrong


@torch.no_grad()
def shares(models, rows, tmp_path):
    """What the controller gives each row's token at the end."""
    means, train = tgeo_kd().stages
    ws = Workspace(tmp_path / "shares", 0)
    ws.models.update(models)
    ws.data["train"] = rows
    ws.models["means"] = means.by(ws)
    batch = Collate(models["student"].tokenizer, 64)(rows)
    voices = {slot: Says(slot) for slot in ("student", "teacher")}
    ctx = Context(batch, voices, {v: frozenset({"next"}) for v in voices}, workspace=ws)
    return ctx(train.updates[1].objective[0].weight)


def test_tgeo_kd(lab, tables, points, told, tmp_path):
    figures = {"labels alone": [], "fixed share 0.5": [], "tgeo_kd": []}
    for seed in range(SEEDS):
        x, y = points.mixture(seed, CLASSES, DIM, TRAIN + HELD + TEST + TEACHER, spread=0.8)
        teacher, wrong = misled(points, x, y, seed)
        train = points.rows(y[:TRAIN].tolist(), CLASSES)
        held = points.rows(y[TRAIN : TRAIN + HELD].tolist(), CLASSES, TRAIN)
        models = {"teacher": teacher, "student": points.model("student", x, (32,), CLASSES, seed)}
        settings = {"steps": 120, "batch_size": 50, "learning_rate": 0.01, "seed": seed, "held": held}
        fixed = {arm: tables.train("tgeo_kd", models, train, tmp_path, share=s, **settings) for arm, s in (("labels alone", 0.0), ("fixed share 0.5", 0.5))}
        student, controller = tables.train(
            "tgeo_kd", models, train, tmp_path, slots=("student", "controller"), num_held=30, controller_rate=2.0, ahead=1.0, **settings
        )
        a = shares({"teacher": copy.deepcopy(teacher), "student": student, "controller": controller}, train, tmp_path)
        start = TRAIN + HELD
        for arm, made in (*fixed.items(), ("tgeo_kd", student)):
            share = {"labels alone": (0.0, 0.0), "fixed share 0.5": (0.5, 0.5)}.get(arm, (float(a[wrong].mean()), float(a[~wrong].mean())))
            figures[arm].append({
                "accuracy": points.accuracy(made, y[start : start + TEST], start),
                "share where the teacher is wrong": share[0], "share where it is right": share[1],
            })  # fmt: skip

    def above(b, margin):
        return lambda f: f["tgeo_kd"]["accuracy"] >= f[b]["accuracy"] + margin

    told(
        "4 Gaussian classes in 8 dimensions, 800 points of which the teacher takes 35 % for the next class, 200 held-out points, a student "
        "of width 32, 120 steps; accuracy on fresh points and shares of training points at the end, mean over seeds (range).",
        figures,
        lab.claim("Where the teacher is wrong its share is below 0.15", figures, lambda f: f["tgeo_kd"]["share where the teacher is wrong"] < 0.15, expected=False),
        lab.claim("That is less than half of its share where it is right", figures,
                  lambda f: f["tgeo_kd"]["share where the teacher is wrong"] < 0.5 * f["tgeo_kd"]["share where it is right"]),
        lab.claim("It is 2 points above the fixed share", figures, above("fixed share 0.5", 0.02), expected=False),
        lab.claim("It is at least as good as labels alone", figures, above("labels alone", 0.0), expected=False),
        lab.claim("It is within half a point of labels alone", figures, above("labels alone", -0.005)),
    )  # fmt: skip
