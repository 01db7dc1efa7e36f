"""To each writer its divergence: between covering and seeking, and ahead of either alone in the other's figure."""

import pytest

pytestmark = pytest.mark.behaviour


def test_distillm_2(lab, measure, found):
    def arms(world):
        answers = {"max_tokens": lab.LENGTH, "temperature": 1.0}
        warm = world.train("seqkd", steps=100, **answers)
        shared = {"start": warm, "steps": 30, "epochs": 3, **answers}
        return {
            "seqkd": world.train("seqkd", start=warm, steps=90, **answers),
            "opd": world.train("opd", start=warm, steps=90, **answers),
            "distillm_2": world.train("distillm_2", **shared),
            "distillm_2, b from 1 to 1.5": world.train("distillm_2", final_student_scale=1.5, **shared),
        }

    figures = measure(arms)
    cover, seek, both, ramp = figures
    found(
        "90 steps of 32 rows (of 64 for distillm_2: two answers a prompt, written anew every 30 steps), after 100 steps of "
        "seqkd that all share; nats a position, mean over seeds (range).",
        figures,
        lab.claim("The teacher finds its text likelier than that of seqkd", figures, lambda f: f[both]["teacher_nll"] < f[cover]["teacher_nll"]),
        lab.claim("On its own text closer to the teacher than seqkd", figures, lambda f: f[both]["reverse_kl"] < f[cover]["reverse_kl"]),
        lab.claim("It covers the teacher's text better than opd", figures, lambda f: f[both]["student_nll"] < f[seek]["student_nll"]),
        lab.claim("A larger b seeks more", figures, lambda f: f[ramp]["reverse_kl"] < f[both]["reverse_kl"]),
    )
