"""Exposure: how much likelier a model finds a planted secret than all other secrets of its form."""

from __future__ import annotations

import math

from torch import Tensor

from ...core.errors import SettingError


def exposure(losses: Tensor, secret: int) -> float:
    """``log2 |R| - log2 rank`` in bits: from 0 (the least likely) to log2 |R| (the likeliest of all).

    A model that knows nothing of the secret has log2 e = 1.44 bits on average. Equal losses share their middle rank.

    Args:
        losses: The log-perplexity of each of the candidates R, the secret among them: Float[R].
        secret: Which of them was planted.

    Raises:
        SettingError: No such candidate.

    Source: arXiv:1802.08232.
    """
    if not 0 <= secret < len(losses):
        raise SettingError(
            "exposure", got=f"candidate {secret} of {len(losses)}", expected="one of them", remedy="Count from 0."
        )
    own = losses[secret]
    below, same = int((losses < own).sum()), int((losses == own).sum())
    return math.log2(len(losses)) - math.log2(below + (same + 1) / 2)
