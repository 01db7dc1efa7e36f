"""On-policy distillation corrects what the student writes, better than the same divergence on the teacher's text."""

import pytest

pytestmark = pytest.mark.behaviour


def test_opd(lab, measure, found):
    def arms(world):
        answers = {"max_tokens": lab.LENGTH, "temperature": 1.0}
        warm = world.train("seqkd", steps=100, **answers)
        return {
            "seqkd": world.train("seqkd", start=warm, steps=150, **answers),
            "reverse_kl on the teacher's text": world.train("reverse_kl", start=warm, steps=150, data=world.text()),
            "opd": world.train("opd", start=warm, steps=150, **answers),
        }

    figures = measure(arms)
    cover, off, on = figures
    found(
        "150 steps of 32 rows, after 100 steps of seqkd that all share; nats a position, mean over seeds (range).",
        figures,
        lab.claim("The teacher finds its text likelier than that of seqkd", figures, lambda f: f[on]["teacher_nll"] < f[cover]["teacher_nll"]),
        lab.claim("It covers the teacher's text less", figures, lambda f: f[on]["student_nll"] > f[cover]["student_nll"]),
        lab.claim("On its own text it is closer to the teacher than reverse_kl on the teacher's text", figures, lambda f: f[on]["reverse_kl"] < f[off]["reverse_kl"]),
    )
