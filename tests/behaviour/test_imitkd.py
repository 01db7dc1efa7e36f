"""Doing what the teacher would do next on one's own answers: its most probable token seeks, its distribution covers."""

import pytest

pytestmark = pytest.mark.behaviour


def test_imitkd(lab, measure, found):
    def arms(world):
        answers, text = {"max_tokens": lab.LENGTH, "temperature": 1.0}, world.text()
        warm = world.train("seqkd", steps=100, **answers)
        shared = {"start": warm, "data": text, "steps": 150}
        return {
            "seqkd": world.train("seqkd", start=warm, steps=150, **answers),
            "imitkd on the data alone": world.train("imitkd", data_share=1.0, final_data_share=1.0, **shared, **answers),
            "imitkd": world.train("imitkd", **shared, **answers),
            "imitkd, whole distribution": world.train("imitkd", whole=True, **shared, **answers),
        }

    figures = measure(arms)
    cover, off, best, whole = figures
    found(
        "150 steps of 32 rows, after 100 steps of seqkd that all share; nats a position, mean over seeds (range).",
        figures,
        lab.claim("The teacher finds its text likelier than that of seqkd", figures, lambda f: f[best]["teacher_nll"] < f[cover]["teacher_nll"]),
        lab.claim("And likelier than after the same on the data's answers alone", figures, lambda f: f[best]["teacher_nll"] < f[off]["teacher_nll"]),
        lab.claim("It covers the teacher's text less", figures, lambda f: f[best]["student_nll"] > f[cover]["student_nll"]),
        lab.claim("With the whole distribution it covers as seqkd does (KL(p, q) within 3 %)", figures, lambda f: abs(f[whole]["forward_kl"] / f[cover]["forward_kl"] - 1) < 0.03),
        lab.claim("With the whole distribution the teacher finds its text likelier than that of seqkd", figures, lambda f: f[whole]["teacher_nll"] < f[cover]["teacher_nll"], expected=False),
    )
