"""Curvature of a softmax head: products with the Hessian of its mean loss, and solving with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import SettingError
from ..core.scores import Head

ELEMENTS = 12 << 20
"""Logits held at once."""


@dataclass(frozen=True, eq=False)
class HeadCurvature:
    """``H = mean_u (diag q_u - q_u q_u^T) x_u x_u^T + damping``, q the softmax of ``W x / T``: a map of Float[C D].

    It is the exact Hessian, in W, of a mean of ``T^2 KL(p_T || q_T)`` whatever p, and of cross-entropy at T = 1; it is
    positive semidefinite, since the loss is convex in a head.

    Args:
        weight: W, Float[C D].
        inputs: x, Float[N D].
        temperature: T > 0.
        damping: > 0; in the unit of the loss over weight squared.

    Raises:
        SettingError: A damping or temperature that is not above 0.
    """

    weight: Tensor
    inputs: Tensor
    temperature: float = 1.0
    damping: float = 0.01

    def __post_init__(self) -> None:
        if not (self.damping > 0 and self.temperature > 0):
            raise SettingError(
                "HeadCurvature",
                got=f"damping={self.damping}, temperature={self.temperature}",
                expected="both above 0",
                remedy="A damping of 0.01 is usual.",
            )

    def __call__(self, vector: Tensor) -> Tensor:
        """``H v``, some inputs at a time."""
        total = self.damping * vector
        for x in self.inputs.split(max(1, ELEMENTS // len(self.weight))):
            q = (x @ self.weight.T / self.temperature).softmax(-1)
            moved = x @ vector.T
            moved = q * (moved - (q * moved).sum(-1, keepdim=True))
            total = total.addmm(moved.T, x, alpha=1 / len(self.inputs))
        return total


def solve(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int = 20, tolerance: float = 1e-4) -> Tensor:
    """Solve ``product(x) = target`` by conjugate gradients, for a symmetric positive definite product.

    Args:
        product: The linear map.
        target: Any shape.
        iterations: At most.
        tolerance: Stops where the residual is this share of the target.
    """
    x, residual = torch.zeros_like(target), target.clone()
    direction, size = residual.clone(), residual.square().sum()
    least = tolerance**2 * size
    for _ in range(iterations):
        if not bool(size > least):
            break
        image = product(direction)
        step = size / (direction * image).sum()
        x, residual = x + step * direction, residual - step * image
        size, before = residual.square().sum(), size
        direction = residual + (size / before) * direction
    return x


def affine(hidden: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """Inputs and weight of a head without its bias and low-rank pairs: they are folded in, Float[N D'], Float[C D'].

    Raises:
        SettingError: A head with a soft cap, which is not linear.
    """
    if head.cap is not None:
        raise SettingError(
            "curvature", got="a soft-capped head", expected="a linear one", remedy="Use another student."
        )
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    weight = head.weight[: head.num_categories].to(dtype)
    for a, b, factor in head.low:
        weight = weight + factor * (b[: head.num_categories].to(dtype) @ a.to(dtype))
    x = hidden.to(dtype) * head.scale
    if head.bias is None:
        return x, weight
    bias = head.bias[: head.num_categories].to(dtype).unsqueeze(1)
    return torch.cat([x, torch.full_like(x[:, :1], head.scale)], 1), torch.cat([weight, bias], 1)
