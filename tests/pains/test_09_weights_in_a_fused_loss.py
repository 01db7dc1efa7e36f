"""Pain 9: elsewhere a fused loss with a weight a token gave wrong or zero gradients, so methods that weigh tokens could not
use it. Here the gradient of weighted units equals that of dense autograd, for tokens and for chunks, in tiles of any size."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core import node
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match
from tutelage.signals.readouts import Entropy

CHUNKS = runpy.run_path(str(Path(__file__).parents[1] / "signals" / "test_chunks.py"))
SETTING = runpy.run_path(str(Path(__file__).parents[1] / "contracts" / "conftest.py"))
world, setting, loss = CHUNKS["world"], SETTING["setting"], CHUNKS["loss"]


@pytest.mark.parametrize("tile", [5, 10**9], ids=["tiles", "whole"])
def test_weighted_tokens(setting, monkeypatch, tile):
    monkeypatch.setattr(node, "TILE_ELEMENTS", tile)
    s = setting()
    weight = torch.linspace(0, 3, 13, dtype=torch.float64)
    value, _ = node.total(s.context(), "tokens", [Match(kl_forward), Entropy()], torch.stack([weight, 0.5 * weight]))
    got = torch.autograd.grad(value, (s.hidden, s.weight))
    q, p = s.log_q(), s.log_p()
    dense = (weight * ((p.exp() * (p - q)).sum(-1) - 0.5 * (q.exp() * q).sum(-1))).sum()
    want = torch.autograd.grad(dense, (s.hidden, s.weight))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(got, want, strict=True))
    assert float(got[0][0].abs().max()) == 0 < float(got[0][12].abs().max())


@pytest.mark.parametrize("tile", [5, 10**9], ids=["tiles", "whole"])
def test_weighted_chunks(world, monkeypatch, tile):
    monkeypatch.setattr(node, "TILE_ELEMENTS", tile)
    context, _, moving, _ = world
    weight = torch.tensor([0.0, 2.0, 0.5, 0.0, 1.0, 3.0, 0.0], dtype=torch.float64)
    got = torch.autograd.grad((context()(loss()) * weight).sum(), moving)
    want = torch.autograd.grad((context(dense=True)(loss()) * weight).sum(), moving)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(got, want, strict=True))
    assert float(got[0][:2].abs().max()) == 0, "the two tokens of a chunk of weight 0"
