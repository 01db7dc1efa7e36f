"""Recursions over generations of a student: the axioms of an anchored meta-teacher, and when to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import SettingError
from ..core.seeds import generator
from ..core.workspace import Workspace
from ..data.gauge import Gauge
from ..signals.divergences import kl_forward

Operator = Callable[[Tensor, Tensor, float], Tensor]
AXIOMS = ("simplex", "support", "anchor", "fixed point", "continuity", "equivariance", "contraction")


def broken_axioms(
    operator: Operator, *, categories: int = 20, draws: int = 200, seed: int = 0, tolerance: float = 1e-8
) -> dict[str, float]:
    """By how much an operator on distributions misses each axiom of a meta-teacher; what holds is left out.

    ``operator(log_q, log_p, anchor)`` takes log-probabilities Float64[N V] of students and of base teachers and the
    anchor's share, and gives those of the meta-teachers m. With P the base and lambda the anchor:

    * ``simplex``: m >= 0, sum m = 1.
    * ``support``: m > 0 wherever P > 0; the miss is the largest P that is lost.
    * ``anchor``: lambda = 1 gives P.
    * ``fixed point``: m(P, P) = P.
    * ``continuity``: along a line of logits from one q to another in 1024 steps, no step changes m by 0.05 or more.
    * ``equivariance``: a permutation of the vocabulary permutes m.
    * ``contraction``: KL(P || m) <= (1 - lambda) KL(P || q).

    Args:
        operator: What is examined.
        categories: V, >= 3.
        draws: Random pairs, N, half of them sharp and half flat.
        seed: Of the draws.
        tolerance: A miss up to it is rounding.

    Source: arXiv:2601.13100; the list is reconstructed.
    """
    if categories < 3 or draws < 2:
        raise SettingError(
            "broken_axioms",
            got=f"categories={categories}, draws={draws}",
            expected="3 categories or more and 2 draws or more",
            remedy="20 and 200 take a moment.",
        )
    g = generator(seed, "axioms")
    sharp = torch.linspace(0.5, 4, draws, dtype=torch.float64).unsqueeze(-1)
    log_q, log_p = (
        (sharp * torch.randn(draws, categories, generator=g, dtype=torch.float64)).log_softmax(-1) for _ in range(2)
    )
    order = torch.randperm(categories, generator=g)
    found: dict[str, float] = dict.fromkeys(AXIOMS, 0.0)
    for anchor in (0.1, 0.5, 0.9):
        for name, miss in _misses(operator, log_q, log_p, anchor, order).items():
            found[name] = max(found[name], miss)
    found["anchor"] = _apart(operator(log_q, log_p, 1.0), log_p)
    return {name: miss for name, miss in found.items() if not miss <= tolerance}


def _misses(operator: Operator, log_q: Tensor, log_p: Tensor, anchor: float, order: Tensor) -> dict[str, float]:
    log_m = operator(log_q, log_p, anchor)
    mass, lost = log_m.exp(), torch.isneginf(log_m) & ~torch.isneginf(log_p)
    jump = _largest_jump(operator, log_q[:16], log_p[:16], anchor)
    bound = (1 - anchor) * kl_forward(log_q, log_p)
    return {
        "simplex": max(float((mass.sum(-1) - 1).abs().max()), float((-mass).max().clamp_min(0))),
        "support": float(log_p.exp().masked_fill(~lost, 0.0).max()),
        "fixed point": _apart(operator(log_p, log_p, anchor), log_p),
        "continuity": jump if jump >= 0.05 else 0.0,
        "equivariance": _apart(operator(log_q[:, order], log_p[:, order], anchor), log_m[:, order]),
        "contraction": float((kl_forward(log_m, log_p) - bound).max().clamp_min(0)),
    }


def _largest_jump(operator: Operator, log_q: Tensor, log_p: Tensor, anchor: float, steps: int = 1024) -> float:
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:, None, None]
    path = ((1 - t) * log_q + t * log_q.flip(0)).log_softmax(-1)
    along = operator(path.flatten(0, 1), log_p.expand_as(path).flatten(0, 1), anchor).unflatten(0, path.shape[:2])
    return float(along.exp().diff(dim=0).abs().max())


def _apart(log_a: Tensor, log_b: Tensor) -> float:
    """The largest difference of a probability."""
    return float((log_a.exp() - log_b.exp()).abs().max())


@dataclass(frozen=True)
class Contracting:
    """Stops a recursion once a distance to its base no longer falls by the ratio that was promised.

    After each round it measures; the distances are kept as the workspace's result ``name``. It says stop when
    ``distance > most * the one before``. Without rows to measure on it never does.

    Args:
        gauge: What is measured, over one data set.
        most: The largest ratio of two distances that still counts as contraction, > 0; 1 goes on while it falls.
        name: The result.
    """

    gauge: Gauge
    most: float = 1.0
    name: str = "generations"

    def __post_init__(self) -> None:
        if not self.most > 0 or len(self.gauge.over) != 1:
            raise SettingError(
                "Contracting",
                got=f"most={self.most}, {len(self.gauge.over)} data sets",
                expected="a ratio above 0 and one data set",
                remedy="1 goes on as long as the distance falls.",
            )

    def __call__(self, workspace: Workspace) -> bool:
        """Measure; whether to stop."""
        if not all(workspace.data.get(name) for name in self.gauge.measures):
            return False
        (now,) = self.gauge(workspace).values()
        past = workspace.results.get(self.name, [])
        workspace.results[self.name] = [*past, now]
        return bool(past) and now > self.most * past[-1]
