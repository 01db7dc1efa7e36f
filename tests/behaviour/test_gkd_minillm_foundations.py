"""Each choice of the classic composition shows: who writes, which divergence, what the gradient goes through."""

import pytest

pytestmark = pytest.mark.behaviour


def test_gkd_minillm_foundations(lab, measure, found):
    name = "gkd_minillm_foundations"
    own = {"student_share": 1.0, "divergence": "reverse"}

    def arms(world):
        answers = {"max_tokens": lab.LENGTH, "temperature": 1.0}
        written = {"student_share": 0.0, "teacher_share": 1.0, "divergence": "forward", "estimator": "sampled"}
        warm = world.train(name, steps=60, **written, **answers)
        return {
            "the start": warm,
            "text of the teacher": world.train(name, start=warm, steps=90, **written, **answers),
            "own text, reverse KL": world.train(name, start=warm, steps=90, **own, **answers),
            "own text, reverse KL, sampled": world.train(name, start=warm, steps=90, **own, estimator="sampled", **answers),
        }

    figures = measure(arms)
    _, cover, seek, sampled = figures
    found(
        "90 steps of 32 rows, after 60 on text of the teacher that all share; nats a position, mean over seeds (range).",
        figures,
        lab.claim("On own text the teacher finds what is written likelier", figures, lambda f: f[seek]["teacher_nll"] < f[cover]["teacher_nll"]),
        lab.claim("It covers the teacher's text less", figures, lambda f: f[seek]["student_nll"] > f[cover]["student_nll"]),
        lab.claim("One sampled token in place of the whole sum shows both as well", figures, lambda f: (
            f[sampled]["teacher_nll"] < f[cover]["teacher_nll"] and f[sampled]["student_nll"] > f[cover]["student_nll"]
        )),
    )  # fmt: skip
