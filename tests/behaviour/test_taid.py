"""A target that moves from the student to the teacher: a gentle start, and the end of plain distillation."""

import pytest

pytestmark = pytest.mark.behaviour


def test_taid(lab, measure, found):
    first = {"forward_kl": [], "taid": []}

    def arms(world):
        shared = {"start": world.chain("start", 1), "data": world.text(), "steps": 120}
        settings = {
            "forward_kl": {},
            "taid, t from 0.2 to 1": {},
            "taid, the same with rate 0.05": {"rate": 0.05},
            "taid, t stays at 0.3": {"start": 0.3, "end": 0.3, "rate": 0.0},
        }
        out = {}
        for arm, how in settings.items():
            name = arm.partition(",")[0]
            out[arm] = world.train(name, **shared, given=how)
            first[name] += [world.log[0]["grad_norm"]] if not how else []
        return out

    figures = measure(arms)
    plain, moving, quick, fixed = figures
    share = [a / b for a, b in zip(first["taid"], first["forward_kl"], strict=True)]
    found(
        "120 steps of 32 rows of the teacher's text, from a student trained on something else; nats a position, mean over "
        f"seeds (range). Norm of the first gradient, as a share of forward_kl's: {min(share):.2f} to {max(share):.2f}.",
        figures,
        lab.Claim("The first gradient is about 0.2 of forward_kl's (0.1 to 0.4)", tuple(0.1 < x < 0.4 for x in share)),
        lab.claim("It ends within 3 % of forward_kl's KL(p, q)", figures, lambda f: abs(f[moving]["forward_kl"] / f[plain]["forward_kl"] - 1) < 0.03),
        lab.claim("So it does where t climbs faster", figures, lambda f: abs(f[quick]["forward_kl"] / f[plain]["forward_kl"] - 1) < 0.03),
        lab.claim("Its KL(p, q) is at least 1 % below that of a t that stays at 0.3", figures, lambda f: f[moving]["forward_kl"] < 0.99 * f[fixed]["forward_kl"]),
    )
