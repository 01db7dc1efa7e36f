"""Two stages against either alone at equal steps, for a student that knows something else and for one that knows nothing."""

import pytest

pytestmark = pytest.mark.behaviour
NAMES = ("forward_kl", "opd", "strong_to_weak")


def test_strong_to_weak(lab, measure, found):
    def arms(world):
        text, out = world.text(), {}
        for start, steps in (("trained", 80), ("trained", 150), ("blank", 80)):
            model = world.chain("start", 1) if start == "trained" else world.blank()
            how = {"start": model, "max_tokens": lab.LENGTH}
            out[f"forward_kl, {steps} steps, {start}"] = world.train("forward_kl", start=model, data=text, steps=steps)
            out[f"opd, {steps} steps, {start}"] = world.train("opd", steps=steps, **how)
            out[f"strong_to_weak, {steps} steps, {start}"] = world.train("strong_to_weak", steps=steps // 2, **how)
        return out

    figures = measure(arms)

    def beats(rival, figure, *settings):
        return lambda f: all(f[f"strong_to_weak, {s}"][figure] < f[f"{rival}, {s}"][figure] for s in settings)

    def both(*settings):
        return lambda f: all(beats(r, "reverse_kl", *settings)(f) for r in ("forward_kl", "opd"))

    everywhere = ("80 steps, trained", "150 steps, trained", "80 steps, blank")
    trained = everywhere[:2]
    found(
        "Half of the steps in each stage, 32 rows a step. The student starts as a chain of its own ('trained') or knows "
        "nothing ('blank'); nats a position, mean over seeds (range).",
        figures,
        lab.claim("On its own text closer to the teacher than forward_kl alone, in each setting", figures, beats("forward_kl", "reverse_kl", *everywhere)),
        lab.claim("Trained: covers the teacher's text better than opd alone", figures, beats("opd", "student_nll", *trained)),
        lab.claim("Trained, 80 steps: on its own text closer to the teacher than either alone", figures, both(trained[0])),
        lab.claim("The same at 150 steps, when opd alone has caught up", figures, both(trained[1]), expected=False),
        lab.claim("The same for a blank student, who has nothing to unlearn", figures, both(everywhere[2]), expected=False),
    )
