"""Tokens that answer for what follows them: a lower reverse KL of whole answers than correcting each token alone."""

import pytest

pytestmark = pytest.mark.behaviour


def test_minillm(lab, measure, found):
    def arms(world):
        answers, text = {"max_tokens": lab.LENGTH}, world.text()
        warm = world.train("seqkd", steps=100, temperature=1.0, **answers)
        shared = {"start": warm, "data": text, "steps": 80, **answers}
        return {
            "seqkd": world.train("seqkd", start=warm, steps=80, temperature=1.0, **answers),
            "opd": world.train("opd", **shared),
            "minillm without text": world.train("minillm", text_scale=0.0, **shared),
            "minillm, the teacher's text beside it": world.train("minillm", **shared),
        }

    figures = measure(arms)
    cover, token, alone, text = figures
    found(
        "80 steps of 32 rows, after 100 steps of seqkd that all share; nats a position, mean over seeds (range).",
        figures,
        lab.claim("On its own text closer to the teacher than seqkd", figures, lambda f: f[alone]["reverse_kl"] < f[cover]["reverse_kl"] and f[text]["reverse_kl"] < f[cover]["reverse_kl"]),
        lab.claim("Without text closer than opd, which corrects each token alone", figures, lambda f: f[alone]["reverse_kl"] < f[token]["reverse_kl"]),
        lab.claim("Text keeps it covering the teacher's text better than opd and than itself without", figures, lambda f: f[text]["student_nll"] < min(f[token]["student_nll"], f[alone]["student_nll"])),
    )
