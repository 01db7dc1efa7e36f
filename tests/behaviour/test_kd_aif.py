"""Influence finds rows whose teacher is wrong, and weights made of it make the student better."""

import pytest
import torch

from tutelage.core.recipe import Recipe
from tutelage.core.seeds import generator
from tutelage.core.signal import Noted
from tutelage.core.term import Term
from tutelage.core.workspace import Workspace
from tutelage.data.source import Corpus
from tutelage.data.steps.influence import Weigh
from tutelage.recipes import base
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match
from tutelage.surgery.influence import Influence

pytestmark = pytest.mark.behaviour

CLASSES, DIM, TRAIN, HELD, TEST, TEACHER, WRONG, DAMPING, SEEDS = 3, 8, 150, 100, 3000, 2000, 0.3, 0.1, 3


def logistic(points, x, seed):
    """A student that is a linear map alone."""
    made = points.model("student", x, (DIM,), CLASSES, seed)
    made.model.base_model.layers[0] = torch.nn.Identity()
    return made


def misled(points, x, y, seed):
    """A teacher that takes some of the first points for those of the next class, and which."""
    wrong = torch.rand(TRAIN, generator=generator(seed, "wrong")) < WRONG
    seen = x.clone()
    for i in wrong.nonzero().squeeze(1).tolist():
        seen[i] = x[y == (y[i] + 1) % CLASSES].mean(0)
    teacher = points.model("teacher", seen, (64,), CLASSES, seed)
    start = TRAIN + HELD + TEST
    return points.fit(teacher, y[start:], start, steps=150), wrong


def auc(benefit, wrong):
    """The share of pairs in which the clean row has the larger benefit."""
    return float((benefit[~wrong][:, None] > benefit[wrong][None]).float().mean())


def noted(rows, models, held, tmp_path):
    ws = Workspace(tmp_path / "ws", 0)
    ws.models.update(models)
    ws.data |= {"held_out": held, "train": rows}
    ws.models["influence"] = Influence(damping=DAMPING)(ws)
    return list(Weigh()(iter(rows), ws))


def test_kd_aif(lab, tables, points, told, tmp_path):
    figures = {"unweighted": [], "kd_aif": [], "kd_aif, exp": [], "weights turned round": []}
    for seed in range(SEEDS):
        x, y = points.mixture(seed, CLASSES, DIM, TRAIN + HELD + TEST + TEACHER, spread=1.5)
        teacher, wrong = misled(points, x, y, seed)
        train = points.rows(y[:TRAIN].tolist(), CLASSES)
        held = points.rows(y[TRAIN : TRAIN + HELD].tolist(), CLASSES, TRAIN)
        models = {"teacher": teacher, "student": logistic(points, x, seed)}
        settings = {"steps": 100, "batch_size": 75, "learning_rate": 0.05, "seed": seed, "held": held}
        weighed = {"damping": DAMPING, **settings}
        first = tables.train("kd_aif", models, train, tmp_path, weighing="none", **settings)
        benefit = torch.tensor([r.notes["benefit"] for r in noted(train, {**models, "student": first}, held, tmp_path)])
        turned = 2 * torch.sigmoid(-benefit / benefit.std())
        rows = points.rows(y[:TRAIN].tolist(), CLASSES, weight=(turned / turned.mean()).tolist())
        plain = Recipe((base.train(Corpus("train"), Term("kl", Match(kl_forward), Noted("weight", "rows"))),))
        made = {
            "unweighted": first,
            "kd_aif": tables.train("kd_aif", models, train, tmp_path, **weighed),
            "kd_aif, exp": tables.train("kd_aif", models, train, tmp_path, weighing="exp", **weighed),
            "weights turned round": tables.train(plain, models, rows, tmp_path, **settings),
        }
        for arm, student in made.items():
            start = TRAIN + HELD
            figures[arm].append({"accuracy": points.accuracy(student, y[start : start + TEST], start), "AUC of b": auc(benefit, wrong)})

    def above(a, b, margin=0.0):
        return lambda f: f[a]["accuracy"] >= f[b]["accuracy"] + margin

    told(
        "3 Gaussian classes in 8 dimensions, 150 points, a linear student, a teacher that takes 30 % of them for the next class, 100 held-out "
        "points, damping 0.1, 100 steps; accuracy on fresh points, and how often a clean row's benefit is above a wrong one's, mean over seeds (range).",
        figures,
        lab.claim("Benefits tell clean from wrong rows with an AUC above 0.9", figures, lambda f: f["unweighted"]["AUC of b"] > 0.9),
        lab.claim("Weighed it is 5 points above unweighted", figures, above("kd_aif", "unweighted", 0.05)),
        lab.claim("Turned round the weights do harm", figures, above("unweighted", "weights turned round", 1e-6)),
    )  # fmt: skip
