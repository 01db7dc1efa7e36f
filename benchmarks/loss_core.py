"""Time, memory and error of loss plus gradients: our node beside the peers' fused losses and dense autograd.

Every arm runs in a fresh process of the peers' environment: the same interpreter, torch and inputs. Where that
environment does not exist, our arms and the dense one run in this one, and the table says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tutelage.core.errors import StoreError

from . import peers
from .common import Result, highest, relative, seconds, start_peak
from .common import fresh as here
from .head import DIVERGENCES, Inputs
from .rivals import BETAS, RIVALS

SETTINGS = {"SmolLM2": (1024, 576, 49_152)}
QUICK = {"quick": (64, 32, 2048)}
SLICE = 64  # positions of the comparison with float64
OURS = ("ours", "dense", "the four products")


def work_of(how: str, inputs: Inputs, divergence: str) -> Callable[[], Tensor | None]:
    """What an arm repeats: the loss, or nothing but the products that every exact road needs."""
    if how == "the four products":
        return lambda: _products(inputs)
    if how in RIVALS:
        return lambda: RIVALS[how](inputs, divergence)
    return lambda: (inputs.ours if how == "ours" else inputs.dense)(DIVERGENCES[divergence])


def arm(how: str, divergence: str, shape: tuple[int, int, int], device: str, repeats: int) -> dict[str, float]:
    """One arm's median time and the memory that it adds to the inputs, gradients included."""
    Inputs.seeded(2, 8, 16, device=device).ours(DIVERGENCES[divergence]).backward()  # libraries are no arm's memory
    inputs = Inputs.seeded(*shape, device=device)
    once = work_of(how, inputs, divergence)

    def work() -> None:
        value = once()
        if value is not None:
            value.backward()
        inputs.hidden.grad = inputs.weight.grad = None

    before = start_peak(device)
    taken = seconds(work, device, repeats=repeats)
    return {"seconds": taken, "peak": highest(device) - before}


def errors(how: str, shape: tuple[int, int, int], device: str) -> dict[str, tuple[float, float]]:
    """By divergence, relative errors against float64 on the first positions: worse of the gradients, value."""
    inputs, out = Inputs.seeded(*shape, device=device), {}
    exact = inputs.first(SLICE, torch.float64)
    for divergence in BETAS if how in RIVALS else DIVERGENCES:
        value = exact.dense(DIVERGENCES[divergence])
        right = exact.gradients(value)
        some = inputs.first(SLICE)
        got = work_of(how, some, divergence)()
        assert got is not None
        worst = max(relative(a, b) for a, b in zip(some.gradients(got), right, strict=True))
        out[divergence] = worst, relative(got.detach(), value.detach())
    return out


def run(device: str, quick: bool) -> Result:
    """The table."""
    fresh, rivals, versions = _environment()
    rows: list[tuple[Any, ...]] = []
    for name, shape in (QUICK if quick else SETTINGS).items():
        how = {"shape": shape, "device": device}
        wrong = {h: fresh("benchmarks.loss_core:errors", how=h, **how) for h in ("ours", "dense", *rivals)}
        for divergence in DIVERGENCES:
            arms = [h for h in (*OURS, *rivals) if h not in RIVALS or divergence in BETAS]
            repeats = 1 if quick else 3
            got = {
                h: fresh("benchmarks.loss_core:arm", how=h, divergence=divergence, repeats=repeats, **how) for h in arms
            }
            for h, found in got.items():
                times, peak = found["seconds"] / got["ours"]["seconds"], found["peak"] / got["ours"]["peak"]
                gradient, value = wrong[h][divergence] if h in wrong else (None, None)
                rows.append((name, divergence, h, found["seconds"], times, found["peak"] / 1e6, peak, gradient, value))
    shapes = {n: dict(zip("PDV", s, strict=True)) for n, s in (QUICK if quick else SETTINGS).items()}
    return Result(
        "loss_core",
        "Loss and gradients of hidden states and head, float32, median of 3 after 1, each arm in a fresh process of "
        "one environment. Peak: memory added to the inputs, the gradients included. Errors: relative to float64 on 64 "
        "positions. The four products alone (both logits, both gradients) are what no exact loss can go below.",
        {"shapes": shapes, "seed": 0, "environment": versions},
        ("setting", "divergence", "arm", "seconds", "times ours", "peak MB", "peak, times ours", "gradient error",
         "value error"),
        tuple(rows),
    )  # fmt: skip


def _products(inputs: Inputs) -> None:
    with torch.no_grad():
        chunk = max(1, (12 << 20) // len(inputs.weight))
        to_weight = torch.zeros_like(inputs.weight)
        buffers = [torch.empty(chunk, len(inputs.weight), dtype=inputs.weight.dtype) for _ in range(2)]
        for start in range(0, len(inputs.hidden), chunk):
            hidden, other = inputs.hidden[start : start + chunk], inputs.teacher_hidden[start : start + chunk]
            torch.mm(hidden, inputs.weight.T, out=buffers[0][: len(hidden)])
            torch.mm(other, inputs.teacher_weight.T, out=buffers[1][: len(hidden)])
            _ = buffers[0][: len(hidden)] @ inputs.weight
            to_weight.addmm_(buffers[0][: len(hidden)].T, hidden)


def _environment() -> tuple[Callable[..., dict[str, Any]], tuple[str, ...], dict[str, str]]:
    try:
        peers.interpreter()
    except StoreError:
        return here, (), {"peers": "not installed: python -m tools.peers_env"}
    return peers.fresh, tuple(RIVALS), peers.versions()
