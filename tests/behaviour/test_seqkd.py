"""Text that the teacher wrote teaches more of the teacher than other text does."""

import pytest

pytestmark = pytest.mark.behaviour


def test_seqkd(lab, measure, found):
    def arms(world):
        other = world.text(world.chain("another", 2))
        return {
            "supervised on text of another chain": world.train("supervised", steps=150, data=other),
            "seqkd": world.train("seqkd", steps=150, max_tokens=lab.LENGTH, temperature=1.0),
        }

    figures = measure(arms)
    other, own = figures
    found(
        "A first-order student, 150 steps of 32 rows, 512 prompts; nats a position, mean over seeds (range).",
        figures,
        lab.claim("Less NLL of the teacher's text than supervised", figures, lambda f: f[own]["student_nll"] < f[other]["student_nll"]),
        lab.claim("The teacher finds its text more likely", figures, lambda f: f[own]["teacher_nll"] < f[other]["teacher_nll"]),
    )
