"""Pain 35: a log-softmax over the whole vocabulary that cancels out of a top-k loss; payloads kept for all micro-batches.

Here every tensor that is made while a loss and its gradient are formed is recorded: none has a row for each unit and a
column for each category.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage.core import node
from tutelage.core.batch import Batch, Units
from tutelage.core.context import Context
from tutelage.core.scores import Head, Lazy
from tutelage.core.signal import Read
from tutelage.signals.divergences import Jensen, Tempered, kl_forward, kl_reverse
from tutelage.signals.match import Match, Targets, Top
from tutelage.signals.pools import RowMean
from tutelage.signals.readouts import Entropy
from tutelage.voices.blend import Blend

U, V, D = 512, 4096, 16
CHUNK = 32 * V


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gives."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(out):
            if isinstance(t, torch.Tensor):
                self.numel = max(self.numel, t.untyped_storage().nbytes() // t.element_size(), t.numel())
        return out


class Fixed:
    """Says one thing."""

    def __init__(self, slot, hidden, weight):
        self.slot, self.said = slot, {"next": Lazy(hidden, Head(weight))}

    def slots(self):
        return frozenset({self.slot})

    def predict(self, ctx, wants):
        return self.said


def context():
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g)
    hidden, weight = draw(U, D).requires_grad_(), draw(V, D).requires_grad_()
    rows = torch.arange(U) // 64
    units = {"tokens": Units(rows, torch.arange(U) % 64, torch.randint(V, (U,), generator=g))}
    units["rows"] = Units(torch.arange(8), torch.zeros(8, dtype=torch.long))
    voices = {
        "student": Fixed("student", hidden, weight), "teacher": Fixed("teacher", draw(U, D), draw(V, D)),
        "pool": Blend(("teacher", "student"), (0.5, 0.5)),
    }  # fmt: skip
    return Context(Batch(tuple(range(8)), units, {}), voices, {}, frozenset({"student"})), hidden, weight


LOSSES = {
    "whole": (Match(kl_forward),),
    "tempered": (Match(Tempered(kl_forward, 2.0)),),
    "top k of the teacher": (Match(kl_forward, on=Top(32)),),
    "top k of the student": (Match(kl_reverse, on=Top(32, of="student")),),
    "a blend": (Match(Jensen(0.5), p=Read("pool")),),
    "several": (Match(kl_forward), Targets(), Entropy()),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(node, "CHUNK_ELEMENTS", CHUNK)
    monkeypatch.setattr(node, "TILE_ELEMENTS", 8 * V)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient(name):
    ctx, hidden, weight = context()
    with Largest() as seen:
        value, _ = node.total(ctx, "tokens", LOSSES[name], torch.ones(len(LOSSES[name]), U))
        value.backward()
    assert hidden.grad.abs().sum() > 0 and weight.grad.abs().sum() > 0
    assert seen.numel <= max(CHUNK, V * D) < U * V / 8


def test_a_loss_that_couples_rows():
    ctx, hidden, _ = context()
    with Largest() as seen:
        (ctx(RowMean(Match(kl_forward))) ** 2).sum().backward()
    assert hidden.grad.abs().sum() > 0 and seen.numel <= CHUNK


def test_the_recorder_sees_what_dense_autograd_makes():
    _, hidden, weight = context()
    with Largest() as seen:
        (hidden @ weight.T).log_softmax(-1).sum().backward()
    assert seen.numel >= U * V
