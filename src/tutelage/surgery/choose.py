"""Which blocks stay when a model gets shallower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..core.batch import View
from ..core.errors import SettingError
from ..models.body import Body, resting

Rows = Sequence[Sequence[int]]
Chooser = Callable[[Body, Rows, int], tuple[int, ...]]


def even(causal: Body, rows: Rows, count: int) -> tuple[int, ...]:
    """Evenly spaced blocks, the first and the last among them (the first alone if there is one)."""
    last = causal.num_layers - 1
    return tuple((2 * i * last + count - 1) // (2 * (count - 1)) if count > 1 else 0 for i in range(count))


def influence(causal: Body, rows: Rows, count: int) -> tuple[int, ...]:
    """The blocks that turn the stream most on the calibration rows."""
    if not any(len(row) for row in rows):
        raise SettingError(
            "influence",
            got="no calibration tokens",
            expected="rows of token ids to measure on",
            remedy="Give calibration rows, or choose blocks evenly.",
        )
    scores = block_influence(causal, rows)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return tuple(sorted(order[:count]))


CHOOSERS: dict[str, Chooser] = {"even": even, "influence": influence}


@torch.no_grad()
def block_influence(causal: Body, rows: Rows) -> list[float]:
    """``1 - mean cosine(stream before the block, stream after it)`` over all positions, for each block."""
    total, positions = torch.zeros(causal.num_layers, dtype=torch.float64), 0
    wants = frozenset(f"states.{k}" for k in range(causal.num_layers + 1))
    with resting(causal.model):
        for row in filter(len, rows):
            ids = torch.tensor([list(row)], device=causal.device)
            found = causal.predict(View({"input_ids": ids}, torch.arange(len(row), device=causal.device)), wants)
            stream = [found[f"states.{k}"] for k in range(causal.num_layers + 1)]
            total += torch.stack([_cosines(a, b) for a, b in pairwise(stream)]).cpu()
            positions += len(row)
    return [1 - s / positions for s in total.tolist()]


def _cosines(before: object, after: object) -> Tensor:
    assert isinstance(before, Tensor)
    assert isinstance(after, Tensor)
    return torch.cosine_similarity(before.double(), after.double(), dim=-1).sum()
