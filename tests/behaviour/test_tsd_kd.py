"""The teacher's ranking of the student's candidates keeps lowered entropies on the teacher's side."""

from dataclasses import replace

import pytest

from tutelage.core.catalog import build
from tutelage.core.recipe import Recipe
from tutelage.signals.rankings import list_likelihood

pytestmark = pytest.mark.behaviour


def reversed_list(log_q, log_p):
    """The likelihood of the teacher's order turned round: what a denominator over the wrong end makes of it."""
    return list_likelihood(log_q, -log_p)


def backwards(**arguments):
    (stage,) = build("tsd_kd", arguments).stages
    terms = [replace(t, loss=replace(t.loss, compare=reversed_list)) if t.name == "ranking" else t for t in stage.updates[0].objective]
    return Recipe((replace(stage, updates=(replace(stage.updates[0], objective=tuple(terms)),)),))


def test_tsd_kd(lab, measure, found):
    shared = {"max_tokens": 20, "temperature": 1.0}
    more = {**shared, "num_ranked": 5}

    def arms(world):
        return {
            "gkd, beta=0.9": world.train("gkd", steps=100, student_share=1.0, beta=0.9, **shared),
            "tsd_kd": world.train("tsd_kd", steps=100, **more),
            "tsd_kd without ranking": world.train("tsd_kd", steps=100, **more, rank_scale=0.0),
            "tsd_kd, ranking turned round": world.train(backwards(**more), steps=100),
        }

    figures = measure(arms)
    found(
        "Second-order chain over 12 symbols, first-order student from nothing, 100 steps of 32 answers, k=5; exact, in nats a position, "
        "mean over seeds (range).",
        figures,
        lab.claim("The teacher finds its text likelier than gkd's", figures, lambda f: f["tsd_kd"]["teacher_nll"] < f["gkd, beta=0.9"]["teacher_nll"]),
        lab.claim("The ranking turned round is worse than gkd", figures,
                  lambda f: f["tsd_kd, ranking turned round"]["teacher_nll"] > f["gkd, beta=0.9"]["teacher_nll"] + 0.2),
        lab.claim("With the ranking its text is likelier to the teacher than without", figures,
                  lambda f: f["tsd_kd"]["teacher_nll"] < f["tsd_kd without ranking"]["teacher_nll"], expected=False),
    )  # fmt: skip
