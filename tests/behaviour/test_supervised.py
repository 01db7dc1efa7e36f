"""Supervised fine-tuning learns the data it is given: the baseline of all others."""

import pytest

pytestmark = pytest.mark.behaviour


def test_supervised(lab, measure, found):
    def arms(world):
        best = lab.best_cover(world.teacher.model.log_probs())[0].float()
        return {
            "before": world.blank(),
            "supervised, 150 steps": world.train("supervised", steps=150, data=world.text()),
            "the best first-order chain, in closed form": world.wrap("best", best),
        }

    figures = measure(arms)
    before, after, best = figures
    found(
        "A first-order student on 512 texts that a second-order chain wrote; nats a position, mean over seeds (range).",
        figures,
        lab.claim("Less NLL of the data than before", figures, lambda f: f[after]["student_nll"] < f[before]["student_nll"]),
        lab.claim(
            "Within 0.02 nats of the best that a first-order chain can do",
            figures,
            lambda f: 0 <= f[after]["student_nll"] - f[best]["student_nll"] < 0.02,
        ),
    )
