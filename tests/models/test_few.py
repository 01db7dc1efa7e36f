"""Products of a few rows are the same numbers, and are made the other way round only where that is faster."""

import pytest
import torch
from torch.nn.functional import linear

from tutelage.core.scores import FEW, Head, few_rows
from tutelage.models import few
from tutelage.models.few import FewRows


@pytest.fixture
def calls(monkeypatch):
    seen = []
    monkeypatch.setattr(few, "few_rows", lambda a, b: seen.append(a.shape) or few_rows(a, b))
    return seen


@pytest.mark.parametrize("shape", [(1, 7), (3, 1, 7), (FEW, 7), (2, 2, 2, 7)])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_library(shape, bias, calls):
    g = torch.Generator().manual_seed(0)
    x, w, b = torch.randn(shape, generator=g), torch.randn(5, 7, generator=g), torch.randn(5, generator=g)
    arguments = (x, w, b) if bias else (x, w)
    want = linear(*(t.double() for t in arguments))
    with torch.no_grad(), FewRows():
        got = linear(*arguments)
    assert calls and got.shape == want.shape
    assert torch.allclose(got.double(), want, atol=1e-5)


def test_left_alone(calls):
    """Many rows, other types, none at all, and whatever needs a gradient."""
    w = torch.randn(5, 7)
    with FewRows():
        linear(torch.randn(FEW + 1, 7), w)
        linear(torch.randn(0, 7), w)
        linear(torch.randn(2, 7).double(), w.double())
        out = linear(torch.randn(2, 7, requires_grad=True), w)
    assert not calls and out.requires_grad


def test_a_heads_logits_of_a_few_rows():
    g = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(3, 4, generator=g), Head(torch.randn(9, 4, generator=g), torch.randn(9, generator=g), size=8)
    with torch.no_grad():
        got = head.raw(hidden)
    assert torch.allclose(got, head.raw(hidden.double()).float(), atol=1e-5) and got.shape == (3, 8)
