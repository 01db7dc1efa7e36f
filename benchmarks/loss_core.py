"""Time, memory and error of loss plus gradients: our node beside dense autograd, each in a fresh process."""

from __future__ import annotations

from typing import Any

import torch

from .common import Result, fresh, peak_bytes, relative, seconds
from .head import DIVERGENCES, Inputs

SETTINGS = {"large": (1024, 576, 49_152), "small": (1024, 256, 32_768)}
QUICK = {"quick": (64, 32, 2048)}
SLICE = 64  # positions of the comparison with float64


def arm(how: str, divergence: str, shape: tuple[int, int, int], device: str, repeats: int) -> dict[str, float]:
    """One arm: ``ours``, ``dense``, or ``inputs`` alone for its memory."""
    inputs = Inputs.seeded(*shape, device=device)
    compare = DIVERGENCES[divergence]
    if how == "inputs":
        Inputs.seeded(2, 8, 16, device=device).ours(compare)  # libraries and their buffers are no arm's memory
        return {"peak": peak_bytes(device)}

    def work() -> None:
        value = inputs.ours(compare) if how == "ours" else inputs.dense(compare)
        value.backward()
        inputs.hidden.grad = inputs.weight.grad = None

    return {"seconds": seconds(work, device, repeats=repeats), "peak": peak_bytes(device)}


def errors(shape: tuple[int, int, int], device: str) -> dict[str, dict[str, float]]:
    """By divergence and arm, relative errors against float64 on the first positions: value, worse of the gradients."""
    inputs, out = Inputs.seeded(*shape, device=device), {}
    exact = inputs.first(SLICE, torch.float64)
    for divergence, compare in DIVERGENCES.items():
        value = exact.dense(compare)
        right = exact.gradients(value)
        out[divergence] = {}
        for how in ("ours", "dense"):
            some = inputs.first(SLICE)
            got = some.ours(compare) if how == "ours" else some.dense(compare)
            worst = max(relative(a, b) for a, b in zip(some.gradients(got), right, strict=True))
            out[divergence] |= {how: worst, f"{how} value": relative(got.detach(), value.detach())}
    return out


def run(device: str, quick: bool) -> Result:
    """The table."""
    rows: list[tuple[Any, ...]] = []
    for name, shape in (QUICK if quick else SETTINGS).items():
        how = {"shape": shape, "device": device}
        base = fresh("benchmarks.loss_core:arm", how="inputs", divergence="forward KL", repeats=0, **how)["peak"]
        all_wrong = fresh("benchmarks.loss_core:errors", **how)
        for divergence, wrong in all_wrong.items():
            for arm_name in ("ours", "dense"):
                repeats = 1 if quick else 5
                got = fresh("benchmarks.loss_core:arm", how=arm_name, divergence=divergence, repeats=repeats, **how)
                peak = (got["peak"] - base) / 1e6
                rows.append(
                    (name, divergence, arm_name, got["seconds"], peak, wrong[arm_name], wrong[f"{arm_name} value"])
                )
    shapes = {n: dict(zip("PDV", s, strict=True)) for n, s in (QUICK if quick else SETTINGS).items()}
    return Result(
        "loss_core",
        "Loss and gradients of hidden states and head, float32, median of 5 after 1, each arm in a fresh process. "
        "Peak: memory added to the inputs, the gradients included. Errors: relative to float64 on 64 positions.",
        {"shapes": shapes, "seed": 0},
        ("setting", "divergence", "arm", "seconds", "peak MB", "gradient error", "value error"),
        tuple(rows),
    )
