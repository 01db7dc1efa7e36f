"""The smallest setting in which a divergence runs: hidden states, two heads and a context over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tutelage.core import node
from tutelage.core.batch import Batch, Units
from tutelage.core.context import Context
from tutelage.core.scores import Head, Lazy
from tutelage.signals.divergences import Jensen, SkewedForward, kl_forward, kl_reverse, total_variation
from tutelage.signals.match import Match

DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward KL": kl_forward,
    "reverse KL": kl_reverse,
    "Jensen 0.5": Jensen(0.5),
    "total variation": total_variation,
    "skewed forward 0.1": SkewedForward(0.1),
}


@dataclass(frozen=True, eq=False)
class Says:
    """A voice over given scores."""

    slot: str
    scores: Any

    def slots(self) -> frozenset[str]:
        return frozenset({self.slot})

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        return {"next": self.scores}


@dataclass(frozen=True, eq=False)
class Inputs:
    """Student and teacher: hidden states Float[P D] and head weights Float[V D]; the student's get gradients."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor

    @classmethod
    def seeded(
        cls, positions: int, size: int, vocabulary: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Inputs:
        """Normal numbers; logits of unit scale."""
        g = torch.Generator().manual_seed(0)

        def draw(count: int, scale: float) -> Tensor:
            # scaled in place: a copy would count as memory of the inputs and hide as much of an arm's
            return torch.randn(count, size, generator=g).mul_(scale).to(device, dtype)

        made = [draw(count, scale) for count, scale in ((positions, 1.0), (vocabulary, size**-0.5)) * 2]
        return cls(made[0].requires_grad_(), made[1].requires_grad_(), made[2], made[3])

    def first(self, count: int, dtype: torch.dtype | None = None) -> Inputs:
        """The first positions, leaves of their own, as another type if asked."""
        to = dtype or self.hidden.dtype
        hidden, weight = (t.detach().to(to).clone().requires_grad_() for t in (self.hidden[:count], self.weight))
        return Inputs(hidden, weight, self.teacher_hidden[:count].to(to), self.teacher_weight.to(to))

    def ours(self, divergence: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The mean divergence by the loss node."""
        count, device = len(self.hidden), self.hidden.device
        row = torch.zeros(count, dtype=torch.long, device=device)
        batch = Batch((), {"tokens": Units(row, torch.arange(count, device=device))}, {})
        voices = {
            "student": Says("student", Lazy(self.hidden, Head(self.weight))),
            "teacher": Says("teacher", Lazy(self.teacher_hidden, Head(self.teacher_weight))),
        }
        ctx = Context(batch, voices, {}, frozenset({"student"}))
        coefficients = torch.full((1, count), 1 / count, device=device)
        return node.total(ctx, "tokens", [Match(divergence)], coefficients)[0]

    def dense(self, divergence: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The mean divergence over whole log-probabilities, by autograd; products and softmax in the inputs' type."""
        log_q = (self.hidden @ self.weight.T).log_softmax(-1)
        with torch.no_grad():
            log_p = (self.teacher_hidden @ self.teacher_weight.T).log_softmax(-1)
        return divergence(log_q, log_p).mean()

    def gradients(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of the student's hidden states and head."""
        found = torch.autograd.grad(value, (self.hidden, self.weight))
        return found[0], found[1]
