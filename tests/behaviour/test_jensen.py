"""Jensen-Shannon lies between the two directions of KL, in coverage and in what the student writes."""

import pytest

pytestmark = pytest.mark.behaviour


def test_jensen(lab, measure, found):
    def arms(world):
        text = world.text()
        recipes = {"forward_kl": {}, "jensen": {"beta": 0.5}, "reverse_kl": {}}
        return {name: world.train(name, steps=150, data=text, **how) for name, how in recipes.items()}

    figures = measure(arms)

    def between(figure):
        def holds(f):
            ends = sorted((f["forward_kl"][figure], f["reverse_kl"][figure]))
            return ends[0] < f["jensen"][figure] < ends[1]

        return holds

    found(
        "beta 0.5. A first-order student on 512 texts that the teacher wrote, 150 steps of 32 rows; nats a position, "
        "mean over seeds (range).",
        figures,
        lab.claim("Covers the teacher's text less than forward_kl and more than reverse_kl", figures, between("student_nll")),
        lab.claim("Its text is likelier to the teacher than that of forward_kl, less than that of reverse_kl", figures, between("teacher_nll")),
    )
