"""Products of a few rows are the same numbers, and are made the other way round only where that is faster."""

import pytest
import torch
from torch import nn

from tutelage.core.scores import FEW, Head, few_rows
from tutelage.models import few
from tutelage.models.few import reading_weights_once


@pytest.fixture
def calls(monkeypatch):
    seen = []
    monkeypatch.setattr(few, "few_rows", lambda a, b: seen.append(a.shape) or few_rows(a, b))
    return seen


@pytest.mark.parametrize("shape", [(1, 7), (3, 1, 7), (FEW, 7), (2, 2, 2, 7)])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_library(shape, bias, calls):
    torch.manual_seed(0)
    layer, x = nn.Linear(7, 5, bias=bias), torch.randn(shape)
    with torch.no_grad():
        want = layer(x)
        assert not calls
        with reading_weights_once(layer):
            got = layer(x)
        assert calls and got.shape == want.shape and torch.allclose(got, want, atol=1e-6)
        calls.clear()
        layer(x)
        assert not calls, "the layer is as it was"


def test_left_alone(calls):
    """Many rows, none at all, other types, and whatever needs a gradient."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(7, 5), nn.Linear(7, 5).double())
    with reading_weights_once(layers):
        assert layers[0](torch.randn(2, 7)).requires_grad
        with torch.no_grad():
            layers[0](torch.randn(FEW + 1, 7))
            layers[0](torch.randn(0, 7))
            layers[1](torch.randn(2, 7).double())
    assert not calls


def test_a_heads_logits_of_a_few_rows():
    g = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(3, 4, generator=g), Head(torch.randn(9, 4, generator=g), torch.randn(9, generator=g), size=8)
    with torch.no_grad():
        got = head.raw(hidden)
    assert torch.allclose(got, head.raw(hidden.double()).float(), atol=1e-5) and got.shape == (3, 8)
