"""A voice over given tensors, and a context over it: the smallest setting in which any signal runs."""

from dataclasses import dataclass

import pytest
import torch

from tutelage.core.batch import Batch, Units
from tutelage.core.context import Context
from tutelage.core.record import Record
from tutelage.core.scores import Head, Lazy


@dataclass(frozen=True, eq=False)
class Fixed:
    """Says given fields; its slot decides whether it keeps a graph."""

    slot: str
    said: dict

    def slots(self):
        return frozenset({self.slot})

    def predict(self, ctx, wants):
        return self.said


@dataclass
class Setting:
    """Hidden states and heads of two models over some units, and everything a signal may ask for."""

    hidden: torch.Tensor
    weight: torch.Tensor
    teacher_hidden: torch.Tensor
    teacher_weight: torch.Tensor
    batch: Batch

    def context(self, **voices):
        student = Fixed("student", {"next": Lazy(self.hidden, Head(self.weight))})
        teacher = Fixed("teacher", {"next": Lazy(self.teacher_hidden, Head(self.teacher_weight))})
        return Context(self.batch, {"student": student, "teacher": teacher, **voices}, {}, frozenset({"student"}))

    def log_q(self):
        return (self.hidden @ self.weight.T).log_softmax(-1)

    def log_p(self):
        return (self.teacher_hidden @ self.teacher_weight.T).log_softmax(-1)


@pytest.fixture
def setting():
    def make(num_units=13, size=5, num_categories=11, num_rows=4, dtype=torch.float64, seed=0):
        g = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

        # row 1 has no unit: it is still a row
        homes = [r for r in range(num_rows) if r != 1]
        row = torch.tensor(sorted(homes[i % len(homes)] for i in range(num_units)), dtype=torch.long)
        time = torch.cat([torch.arange(int((row == r).sum())) for r in range(num_rows)]) if num_units else row
        target = torch.randint(num_categories, (num_units,), generator=g)
        units = {"tokens": Units(row, time, target), "rows": Units(torch.arange(num_rows), torch.zeros(num_rows, dtype=torch.long))}
        notes = {"tokens.old": draw(num_units) - 3, "rows.right": torch.tensor([1.0, 0.0, 0.0, 1.0][:num_rows]).to(dtype)}
        records = tuple(Record(f"r{i}", ()) for i in range(num_rows))
        batch = Batch(records, units, {}, notes, torch.arange(num_rows) // 2)
        return Setting(
            draw(num_units, size).requires_grad_(), draw(num_categories, size).requires_grad_(),
            draw(num_units, size), draw(num_categories, size), batch,
        )

    return make


@pytest.fixture
def fixed():
    return Fixed
