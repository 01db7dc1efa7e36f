"""Influence: how much training on a row lowers the loss on held-out rows, as a weight of the row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor

from ...core.batch import Batch
from ...core.errors import NeedError, unknown
from ...core.record import Record
from ...core.scores import Lazy, Scores
from ...core.workspace import Workspace
from ...models.body import resting
from ...models.curvature import affine
from ..collate import Collate, split

LONGEST = 1 << 20
ROWS = 8


@dataclass(frozen=True)
class Weigh:
    """Writes ``benefit``, on the scale of all rows, and ``weight``, of mean 1 over them, as notes of a row.

    Args:
        slot: Where the direction is that benefits are measured along (``surgery.influence.Influence``).
        weighing: ``sigmoid``: ``2 sigmoid(b)``, b over its deviation; ``exp``: ``exp(2 b - 1)``, b from its 1st to its
            99th percentile on a 0 to 1 scale. Both are divided by their mean.
        temperature: Of the divergence, as in the fit.

    Source: arXiv:2501.02705.
    """

    slot: str = "influence"
    weighing: str = "sigmoid"
    temperature: float = 1.0
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if self.weighing not in WEIGHINGS:
            raise unknown("Weigh.weighing", self.weighing, WEIGHINGS)

    def slots(self) -> frozenset[str]:
        """The model slots that it depends on."""
        return frozenset({"student", "teacher", self.slot})

    def asks(self) -> tuple[tuple[str, str], ...]:
        """What it needs of whom."""
        return (("student", "next"), ("teacher", "next"))

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows, with the notes."""
        fit = ws.models[self.slot]
        while rows := list(islice(records, ROWS)):
            benefits = row_benefits(rows, ws, fit.weight, self.temperature) + fit.bias[0].cpu()
            weights = WEIGHINGS[self.weighing](benefits) * fit.bias[1].cpu()
            for record, b, w in zip(rows, benefits.tolist(), weights.tolist(), strict=True):
                yield replace(record, notes={**record.notes, "benefit": b, "weight": w})


def row_benefits(rows: Sequence[Record], ws: Workspace, direction: Tensor, temperature: float) -> Tensor:
    """The mean over a row's positions of ``T (q_T - p_T)^T V x``, 0 without one: Float[R] for a direction V."""
    found = []
    with torch.no_grad(), resting(ws.models["student"].model), resting(ws.models["teacher"].model):
        for batch, scores, teacher in read(rows, ws, teacher=True):
            assert teacher is not None
            x, weight = affine(scores.hidden, scores.head)
            q = (x @ weight.T / temperature).softmax(-1)
            p = (teacher.at(slice(None)).to(q.dtype) / temperature).softmax(-1)
            value = temperature * ((q - p) * (x @ direction.to(x.dtype).T)).sum(-1)
            row = batch.units["tokens"].row
            total = torch.zeros(batch.num_rows, dtype=value.dtype, device=row.device).index_add(0, row, value)
            found.append((total / torch.bincount(row, minlength=batch.num_rows).clamp_min(1)).float().cpu())
    return torch.cat(found)


def scale_of(weighing: str, benefits: Tensor) -> tuple[float, float]:
    """What a benefit is multiplied by, and what is then added; 0 and 1/2 or 0 where all are equal."""
    if weighing == "sigmoid":
        deviation = float(benefits.std(correction=0))
        return (1 / deviation if deviation > 0 else 0.0), 0.0
    low, high = (float(torch.quantile(benefits.double(), q)) for q in (0.01, 0.99))
    return (1 / (high - low), -low / (high - low)) if high > low else (0.0, 0.5)


def sigmoid_weights(benefits: Tensor) -> Tensor:
    """``2 sigmoid(b)``."""
    return 2 * torch.sigmoid(benefits)


def exponential_weights(benefits: Tensor) -> Tensor:
    """``exp(2 b - 1)``, b kept within 0 and 1."""
    return torch.exp(2 * benefits.clamp(0, 1) - 1)


WEIGHINGS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": sigmoid_weights, "exp": exponential_weights}


def read(rows: Sequence[Record], ws: Workspace, *, teacher: bool) -> Iterator[tuple[Batch, Lazy, Scores | None]]:
    """By batch: the student's scores and, if asked for, the teacher's."""
    student = ws.models["student"]
    collate = Collate(student.tokenizer, student.max_positions or LONGEST)
    for some in split(rows, ROWS):
        batch = collate(some).to(student.device)
        own = student.predict(batch.views["main"], frozenset({"next"}))["next"]
        other = ws.models["teacher"].predict(batch.views["main"], frozenset({"next"}))["next"] if teacher else None
        if not isinstance(own, Lazy) or (other is not None and other.num_categories != own.num_categories):
            raise NeedError(
                "influence",
                got="a student without a head of its own, or another vocabulary than the teacher's",
                expected="two models of one vocabulary in this process",
                remedy="Load both models, of one tokenizer.",
            )
        yield batch, own, other
