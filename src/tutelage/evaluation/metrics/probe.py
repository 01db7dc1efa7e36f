"""Probes: what a simple classifier can read off features that do not train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import DataError, SettingError
from ...core.record import Record


def standardised(fit: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both in units of the deviation of ``fit`` around its mean, Float64; a feature that does not vary is 0."""
    fit, test = fit.double(), test.double()
    mean, deviation = fit.mean(0), fit.std(0, correction=0)
    by = torch.where(deviation > 1e-12, 1 / deviation, torch.zeros_like(deviation))
    return (fit - mean) * by, (test - mean) * by


def linear_probe(
    fit: Tensor, labels: Tensor, test: Tensor, *, decay: float = 1e-3, steps: int = 200, classes: int | None = None
) -> Tensor:
    """The classes that a linear classifier gives to ``test``, Int[M].

    It minimises ``mean cross-entropy + decay / 2 |W|^2`` over standardised features by L-BFGS: a convex problem, so
    there is no learning rate to tune for one model and not for another.

    Args:
        fit: Float[N D].
        labels: Int[N], classes from 0.
        test: Float[M D].
        decay: >= 0.
        steps: The most iterations.
        classes: How many there are; by default up to the largest label.
    """
    x, other = standardised(fit, test)
    x, other = (torch.cat([f, torch.ones(len(f), 1, dtype=f.dtype)], 1) for f in (x, other))
    num = int(labels.max()) + 1 if classes is None else classes
    weight = torch.zeros(x.shape[1], num, dtype=x.dtype, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=steps, line_search_fn="strong_wolfe", tolerance_grad=1e-6)

    def closure() -> Tensor:
        solver.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight, labels) + decay / 2 * weight[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)  # type: ignore[arg-type]
    return (other @ weight.detach()).argmax(-1)


def nearest(fit: Tensor, labels: Tensor, test: Tensor, *, k: int = 20) -> Tensor:
    """The class of most of the k nearest rows, Int[M]: Euclidean over standardised features; ties to the lower class.

    Args:
        fit: Float[N D].
        labels: Int[N].
        test: Float[M D].
        k: >= 1; all rows where there are fewer.
    """
    x, other = standardised(fit, test)
    near = torch.cdist(other, x).topk(min(k, len(x)), largest=False).indices
    votes = torch.nn.functional.one_hot(labels[near], int(labels.max()) + 1).sum(1)
    return votes.argmax(-1)


@dataclass(frozen=True)
class Probe:
    """The accuracy of a linear probe and of nearest neighbours on features that rows carry.

    The first rows fit, the others test. Classes are notes, features are fields (the steps Label and Features).

    Args:
        features: The field, a list of numbers.
        label: The note.
        share: Of the rows that fit, in (0, 1).
        k: Neighbours, >= 1.
        decay: Of the linear probe, >= 0.
    """

    features: str = "features"
    label: str = "label"
    share: float = 0.5
    k: int = 20
    decay: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.k < 1 or self.decay < 0:
            raise SettingError(
                "Probe",
                got=f"share={self.share}, k={self.k}, decay={self.decay}",
                expected="a share between 0 and 1, k >= 1 and decay >= 0",
                remedy="0.5, 20 and 0.001 are usual.",
            )

    def __call__(self, rows: Sequence[Record]) -> dict[str, float | int]:
        """``num_fit``, ``num_test``, ``linear`` and ``nearest`` (accuracies), ``majority`` (what guessing gives)."""
        cut = round(self.share * len(rows))
        if not 0 < cut < len(rows):
            raise DataError(
                "Probe", got=f"{len(rows)} rows", expected="rows to fit and to test", remedy="Give more held-out rows."
            )
        x = torch.tensor([row.fields[self.features] for row in rows], dtype=torch.float64)
        y = torch.tensor([int(row.notes[self.label]) for row in rows])
        (fit, test), (known, asked) = x.split([cut, len(rows) - cut]), y.split([cut, len(rows) - cut])
        return {
            "num_fit": cut,
            "num_test": len(rows) - cut,
            "linear": _share(linear_probe(fit, known, test, decay=self.decay) == asked),
            "nearest": _share(nearest(fit, known, test, k=self.k) == asked),
            "majority": _share(asked == known.mode().values),
        }


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
