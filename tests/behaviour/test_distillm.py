"""Skewed KL that asks the student for answers only where data alone makes validation worse."""

from dataclasses import replace

import pytest

pytestmark = pytest.mark.behaviour


def test_distillm(lab, measure, found):
    written = {}

    def arms(world):
        answers, text = {"max_tokens": lab.LENGTH}, world.text()
        held = [replace(r, id=f"held {r.id}") for r in lab.World(world.seed + 100, world.folder).text(world.teacher)[:64]]
        warm = world.train("seqkd", steps=100, temperature=1.0, **answers)
        shared = {"start": warm, "data": text, "steps": 150}
        looks = {"more": {"held_out": held}, "every": 10, "margin": 0.02, **answers}
        out = {}
        for arm, name, how in (
            ("forward_kl", "forward_kl", {}),
            ("opd", "opd", answers),
            ("distillm", "distillm", looks),
            ("distillm, phi from 0.5", "distillm", {**looks, "given": {"start": 0.5}}),
        ):
            out[arm] = world.train(name, **shared, **how)
            written.setdefault(arm, []).append(world.ws.ledger.get("student", "sample").tokens)
            if arm == "distillm":
                written.setdefault("phi", []).append(world.log[-1]["ratchet.held_out"])
        return out

    figures = measure(arms)
    cover, own, adaptive, half = figures
    share = max(a / b for a, b in zip(written[half], written[own], strict=True))
    found(
        "150 steps of 32 rows, after 100 steps of seqkd that all share; phi looks every 10 steps with a margin of 0.02. "
        f"phi at the end: {min(written['phi']):.1f} to {max(written['phi']):.1f}. From 0.5 the student writes at most "
        f"{share:.2f} of the tokens of opd. Nats a position, mean over seeds (range).",
        figures,
        lab.Claim("The validation loss rises and phi with it", tuple(phi > 0 for phi in written["phi"])),
        lab.Claim("From 0.5 it costs less than half of the tokens that opd writes", tuple(a < b / 2 for a, b in zip(written[half], written[own], strict=True))),
        lab.claim("On its own text closer to the teacher than forward_kl, either way", figures, lambda f: max(f[adaptive]["reverse_kl"], f[half]["reverse_kl"]) < f[cover]["reverse_kl"]),
        lab.claim("It covers the teacher's text better than opd, either way", figures, lambda f: max(f[adaptive]["student_nll"], f[half]["student_nll"]) < f[own]["student_nll"]),
        lab.claim("On its own text as close to the teacher as opd", figures, lambda f: f[half]["reverse_kl"] <= f[own]["reverse_kl"], expected=False),
    )
