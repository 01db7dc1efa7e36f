"""Gradient error of a Jensen-Shannon divergence in bfloat16: BT = 256, H = 1,024, V = 32,000, normal inputs."""

from __future__ import annotations

import torch

from tutelage.signals.divergences import Jensen, kl_forward, kl_reverse

from .common import Result, relative
from .head import Inputs

SHAPE, QUICK = (256, 1024, 32_000), (16, 64, 1000)


def run(device: str, quick: bool) -> Result:
    """The table."""
    half = Inputs.seeded(*(QUICK if quick else SHAPE), device=device, dtype=torch.bfloat16)
    rows = []
    for name, compare in (("Jensen 0.5", Jensen(0.5)), ("forward KL", kl_forward), ("reverse KL", kl_reverse)):
        exact = half.first(len(half.hidden), torch.float64)
        value = exact.dense(compare)
        right = exact.gradients(value)
        for arm in ("ours", "dense in bfloat16"):
            some = half.first(len(half.hidden))
            got = some.ours(compare) if arm == "ours" else some.dense(compare)
            errors = [relative(a, b) for a, b in zip(some.gradients(got), right, strict=True)]
            rows.append(
                (
                    name,
                    arm,
                    100 * errors[0],
                    100 * errors[1],
                    100 * abs(float(got.detach()) / float(value.detach()) - 1),
                )
            )
    return Result(
        "bf16_gradient",
        "Hidden states and heads in bfloat16; error in percent of the norm, against float64 on the same numbers.",
        dict(zip("PDV", QUICK if quick else SHAPE, strict=True)),
        ("divergence", "arm", "hidden gradient, %", "head gradient, %", "value, %"),
        tuple(rows),
    )
