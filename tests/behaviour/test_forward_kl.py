"""On the same text, whole distributions teach more than the symbols that were drawn from them."""

import pytest

pytestmark = pytest.mark.behaviour


def test_forward_kl(lab, measure, found):
    def arms(world):
        text = world.text()
        return {
            f"{recipe}, {rows} texts": world.train(recipe, steps=150, data=text[:rows])
            for rows in (32, 512)
            for recipe in ("supervised", "forward_kl")
        }

    figures = measure(arms)
    few, soft_few, many, soft_many = figures
    found(
        "A first-order student on text that the teacher wrote, 150 steps of 32 rows; nats a position, mean over seeds "
        "(range).",
        figures,
        lab.claim("Lower KL to the teacher than supervised, 32 texts", figures, lambda f: f[soft_few]["forward_kl"] < f[few]["forward_kl"]),
        lab.claim("The same, 512 texts", figures, lambda f: f[soft_many]["forward_kl"] < f[many]["forward_kl"]),
    )
