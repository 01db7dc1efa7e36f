"""Generalised distillation on the student's own text seeks modes; sequence-level distillation covers."""

import pytest

pytestmark = pytest.mark.behaviour


def test_gkd(lab, measure, found):
    def arms(world):
        answers = {"max_tokens": lab.LENGTH, "temperature": 1.0}
        warm = world.train("seqkd", steps=100, **answers)
        text = world.text()
        return {
            "seqkd": world.train("seqkd", start=warm, steps=150, **answers),
            "gkd, half of the steps on own text, beta 0.5": world.train("gkd", start=warm, steps=150, data=text, **answers),
            "gkd, own text, beta 1": world.train("gkd", start=warm, steps=150, student_share=1.0, beta=1.0, **answers),
        }

    figures = measure(arms)
    cover, half, seek = figures
    found(
        "150 steps of 32 rows, after 100 steps of seqkd that all share; nats a position, mean over seeds (range).",
        figures,
        lab.claim("Own text, beta 1: the teacher finds it likelier than that of seqkd", figures, lambda f: f[seek]["teacher_nll"] < f[cover]["teacher_nll"]),
        lab.claim("It covers the teacher's text less", figures, lambda f: f[seek]["student_nll"] > f[cover]["student_nll"]),
        lab.claim("The mixture lies between the two in both", figures, lambda f: all(
            min(f[cover][x], f[seek][x]) < f[half][x] < max(f[cover][x], f[seek][x]) for x in ("teacher_nll", "student_nll")
        )),
    )  # fmt: skip
