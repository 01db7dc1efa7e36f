"""Reverse KL gives up coverage for text that the teacher finds likely."""

import pytest

pytestmark = pytest.mark.behaviour


def test_reverse_kl(lab, measure, found):
    def arms(world):
        text = world.text()
        return {recipe: world.train(recipe, steps=150, data=text) for recipe in ("forward_kl", "reverse_kl")}

    figures = measure(arms)
    found(
        "A first-order student on 512 texts that the teacher wrote, 150 steps of 32 rows; nats a position, mean over "
        "seeds (range).",
        figures,
        lab.claim("Its text is likelier to the teacher than that of forward_kl", figures, lambda f: f["reverse_kl"]["teacher_nll"] < f["forward_kl"]["teacher_nll"]),
        lab.claim("It covers the teacher's text less", figures, lambda f: f["reverse_kl"]["student_nll"] > f["forward_kl"]["student_nll"]),
    )
