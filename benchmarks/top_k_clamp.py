"""How often a divergence on the k largest categories is negative: with the rest as one bucket, and with it left out."""

from __future__ import annotations

import torch

from tutelage.signals.divergences import kl_forward, kl_reverse
from tutelage.signals.match import Top

from .common import Result

POSITIONS, VOCABULARY = 1024, 32_768
ROUNDING = 1e-6  # nats: below it, a negative number is a zero that was rounded


def pair(noise: float, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A teacher whose sorted probabilities fall like 1 / rank, and a student whose logits differ by normal noise."""
    g = torch.Generator().manual_seed(0)
    rank = torch.stack([torch.randperm(VOCABULARY, generator=g) for _ in range(positions)]).float() + 1
    logits = -1.1 * rank.log() + 0.5 * torch.randn(positions, VOCABULARY, generator=g)
    student = logits + noise * torch.randn(positions, VOCABULARY, generator=g)
    return student.log_softmax(-1), logits.log_softmax(-1)


def run(device: str, quick: bool) -> Result:
    """The table."""
    rows = []
    for noise in (0.1, 0.5) if quick else (0.1, 0.5, 1.0):
        log_q, log_p = pair(noise, 64 if quick else POSITIONS)
        for name, compare, of in (("forward KL", kl_forward, "teacher"), ("reverse KL", kl_reverse, "student")):
            whole = compare(log_q, log_p)
            for k in (16, 64):
                for rest in ("tail", "drop"):
                    value = compare(*Top(k, of=of, rest=rest)(log_q, log_p))
                    above = (value > whole + ROUNDING).float().mean()
                    negative = (value < -ROUNDING).float().mean()
                    figures = (100 * float(negative), 100 * float(above), float(value.mean()), float(whole.mean()))
                    rows.append((name, noise, k, {"tail": "one bucket", "drop": "left out"}[rest], *figures))
    return Result(
        "top_k_clamp",
        "k largest of the side that the divergence averages over. A divergence is never negative, and on fewer "
        "categories never above the whole; left out, the rest makes it neither.",
        {"P": POSITIONS, "V": VOCABULARY, "seed": 0, "zipf": 1.1},
        (
            "divergence",
            "noise",
            "k",
            "rest",
            "negative, % of positions",
            "above the whole, %",
            "mean, nats",
            "whole, nats",
        ),
        tuple(rows),
    )
