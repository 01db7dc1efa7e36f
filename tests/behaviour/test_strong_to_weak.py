"""Two stages against either alone at equal steps, for a student that knows something else and for one that knows nothing."""

import pytest

pytestmark = pytest.mark.behaviour
TRAINED, BLANK = ("40 steps, trained", "80 steps, trained"), "80 steps, blank"


def test_strong_to_weak(lab, measure, found):
    def arms(world):
        text, out = world.text(), {}
        for setting in (*TRAINED, BLANK):
            steps = int(setting.split()[0])
            start = world.blank() if setting == BLANK else world.chain("start", 1)
            answers = {"start": start, "max_tokens": lab.LENGTH}
            out[f"forward_kl, {setting}"] = world.train("forward_kl", start=start, data=text, steps=steps)
            out[f"opd, {setting}"] = world.train("opd", steps=steps, **answers)
            out[f"strong_to_weak, {setting}"] = world.train("strong_to_weak", steps=steps // 2, **answers)
        return out

    figures = measure(arms, seeds=6)

    def beats(rival, figure, *settings):
        return lambda f: all(f[f"strong_to_weak, {s}"][figure] < f[f"{rival}, {s}"][figure] for s in settings)

    found(
        "Half of the steps in each stage, 32 rows a step. The student starts as a chain of its own, trained on something "
        "else, or as a blank one; a blank one is nearly done after 80 steps. Nats a position, mean over seeds (range).",
        figures,
        lab.claim("On its own text closer to the teacher than forward_kl alone, in each setting", figures, beats("forward_kl", "reverse_kl", *TRAINED, BLANK)),
        lab.claim("Trained: covers the teacher's text better than opd alone, after 40 and after 80 steps", figures, beats("opd", "student_nll", *TRAINED)),
        lab.claim("Trained: on its own text closer to the teacher than opd alone after 40 steps", figures, beats("opd", "reverse_kl", TRAINED[0]), expected=False),
        lab.claim("The same after 80 steps", figures, beats("opd", "reverse_kl", TRAINED[1]), expected=False),
        lab.claim("The same for a blank student", figures, beats("opd", "reverse_kl", BLANK), expected=False),
    )
