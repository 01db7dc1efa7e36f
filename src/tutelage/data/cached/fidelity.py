"""What a form costs: how far what is read back is from what the teacher said, and what the student feels of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...core.scores import Kept, Scores
from .form import slices
from .scores import Drawn


@torch.no_grad()
def fidelity(teacher: Scores, decoded: Scores, student: Scores) -> Mapping[str, Any]:
    """Means over positions, in float64.

    ``kl``: KL(teacher, decoded) in nats, where the mass that no id was kept for is spread evenly; None where decoded
    probabilities are 0 by design. ``kl_kept``: the same over the kept ids and one bucket for the rest, which is what an
    objective on the kept ids reads. ``mass_kept``: the teacher's mass on the kept ids. ``gradient_cosine``: between the
    gradients of forward KL in the student's logits, ``q - p`` and ``q - decoded``, all positions as one vector.

    Args:
        teacher: What was said.
        decoded: What is read back, over the same positions.
        student: Who learns.
    """
    sums = dict.fromkeys(("kl", "kl_kept", "mass_kept", "dot", "left", "right"), 0.0)
    for rows in slices(teacher):
        log_p, log_d = (scores.at(rows).double().cpu() for scores in (teacher, decoded))
        q, p, d = student.at(rows).double().cpu().exp(), log_p.exp(), log_d.exp()
        kept = _kept(decoded, rows, d)
        sums["kl"] += float((p * (log_p - log_d)).nan_to_num(0.0, posinf=torch.inf).sum())
        sums["mass_kept"] += float((p * kept).sum())
        sums["kl_kept"] += float(_bucketed(p, d, kept).sum())
        sums["dot"] += float(((q - p) * (q - d)).sum())
        sums["left"] += float((q - p).square().sum())
        sums["right"] += float((q - d).square().sum())
    num, length = len(teacher), (sums["left"] * sums["right"]) ** 0.5
    sampled = isinstance(decoded, Drawn)
    return {
        "kl": None if sampled else sums["kl"] / num,
        "kl_kept": None if sampled else sums["kl_kept"] / num,
        "mass_kept": sums["mass_kept"] / num,
        "gradient_cosine": sums["dot"] / length if length else 1.0,
        "positions": num,
    }


def _kept(decoded: Scores, rows: slice, d: torch.Tensor) -> torch.Tensor:
    """Float[k C], 1 at ids that were kept."""
    if isinstance(decoded, Drawn):
        return (d > 0).double()
    if isinstance(decoded, Kept):
        return torch.zeros_like(d).scatter_(1, decoded.ids[rows].long().cpu(), 1.0)
    return torch.ones_like(d)


def _bucketed(p: torch.Tensor, d: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    inside = (kept * torch.special.xlogy(p, p / d.clamp_min(1e-300))).sum(-1)
    rest, other = ((x * (1 - kept)).sum(-1) for x in (p, d))
    return inside + torch.special.xlogy(rest, rest / other.clamp_min(1e-300))
