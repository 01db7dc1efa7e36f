"""Influence: the direction in the head's weights along which a row's gradient tells what it does to held-out loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import DataError, SettingError, unknown
from ..core.record import Record
from ..core.workspace import Workspace
from ..data.steps.influence import WEIGHINGS, read, row_benefits, scale_of
from ..models.body import resting
from ..models.curvature import HeadCurvature, affine, solve
from .fit import Fitted


@dataclass(frozen=True)
class Influence:
    """``V = (H + damping)^-1 g_held``: a row's benefit is ``V . g_row``, above 0 where more of it lowers the loss.

    g_held is the gradient of the mean cross-entropy on held-out answers, g_row that of the row's mean
    ``T^2 KL(p_T || q_T)``, H the exact Hessian of the latter's mean; all in the weights of the student's head, the rest
    of the student fixed. V is kept on the scale of a weighing, whose offset and the inverse of whose mean weight over
    the data are the fit's bias: Float[2]. The step ``Weigh`` reads it.

    Args:
        data: The rows.
        held: The held-out data set.
        weighing: A name of ``data.steps.influence.WEIGHINGS``.
        temperature: T > 0.
        damping: > 0, of the Hessian.
        iterations: Of conjugate gradients, >= 1.
        most: Trained positions, spread evenly over the data, that make up H; >= 1.

    Source: arXiv:2501.02705.
    """

    data: str = "train"
    held: str = "held_out"
    weighing: str = "sigmoid"
    temperature: float = 1.0
    damping: float = 0.01
    iterations: int = 10
    most: int = 1024

    def __post_init__(self) -> None:
        if self.weighing not in WEIGHINGS:
            raise unknown("Influence.weighing", self.weighing, WEIGHINGS)
        if not (self.temperature > 0 and self.damping > 0) or min(self.iterations, self.most) < 1:
            raise SettingError(
                "Influence",
                got=f"temperature={self.temperature}, damping={self.damping}, iterations={self.iterations}, "
                f"most={self.most}",
                expected="all of them above 0",
                remedy="1, 0.01, 10 and 1024 are usual.",
            )

    def asks(self) -> tuple[tuple[str, str], ...]:
        """What it needs of whom."""
        return (("student", "next"), ("teacher", "next"))

    def __call__(self, workspace: Workspace) -> Fitted:
        """Read held-out rows once and the others twice.

        Raises:
            UnknownName: No such data set.
            DataError: No rows on either side.
        """
        for name in (self.data, self.held):
            if name not in workspace.data:
                raise unknown("influence", name, workspace.data, "Name the rows under [data]; held-out ones apart.")
            if not workspace.data[name]:
                raise DataError("influence", got=f"no rows in {name!r}", expected="at least one", remedy="Add some.")
        with torch.no_grad(), resting(workspace.models["student"].model):
            direction = self._direction(workspace.data[self.data], workspace.data[self.held], workspace)
        benefits = row_benefits(workspace.data[self.data], workspace, direction, self.temperature)
        scale, offset = scale_of(self.weighing, benefits)
        mean = float(WEIGHINGS[self.weighing](scale * benefits + offset).mean())
        return Fitted(scale * direction, torch.tensor([offset, 1 / mean]))

    def _direction(self, rows: Sequence[Record], held: Sequence[Record], ws: Workspace) -> Tensor:
        """V, Float[C D]."""
        weight, total, count = torch.zeros(()), torch.zeros(()), 0
        for batch, scores, _ in read(held, ws, teacher=False):
            x, weight = affine(scores.hidden, scores.head)
            slope = (x @ weight.T).softmax(-1)
            slope[torch.arange(len(x)), batch.units["tokens"].target] -= 1
            total, count = total.to(x.device) + slope.T @ x, count + len(x)
        every = torch.cat([affine(scores.hidden, scores.head)[0] for _, scores, _ in read(rows, ws, teacher=False)])
        chosen = torch.linspace(0, len(every) - 1, min(self.most, len(every)), device=every.device).round().long()
        curvature = HeadCurvature(weight, every[chosen], self.temperature, self.damping)
        return solve(curvature, total / max(1, count), self.iterations)
