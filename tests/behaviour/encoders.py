"""Encoders of points, with or without batch statistics, under a wide head: a row is a sequence of points.

The unit after each point is read at that point, so a row of 65 points has 64 positions of which each is one point.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tutelage.core.record import Piece, Record
from tutelage.core.seeds import generator
from tutelage.models.causal import Causal

HEAD = 512


class Config:
    """What an encoder is made of."""

    def __init__(self, points: Tensor, statistics: bool, width: int = 128, depth: int = 3) -> None:
        self.points, self.statistics = points, statistics
        self.hidden_size, self.num_hidden_layers, self.max_position_embeddings = width, depth, None

    def get_text_config(self, decoder: bool = True) -> Config:
        return self


class Body(nn.Module):
    """An MLP over the point that each token names."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.register_buffer("points", config.points.clone(), persistent=False)
        sizes = [config.points.shape[1], *[config.hidden_size] * config.num_hidden_layers]
        blocks = [
            nn.Sequential(nn.Linear(a, b), *([nn.BatchNorm1d(b)] if config.statistics else []), nn.ReLU())
            for a, b in itertools.pairwise(sizes)
        ]
        self.layers = nn.ModuleList(blocks)

    def forward(self, input_ids: Tensor, past_key_values: Any = None, **ignored: Any) -> Any:
        hidden = self.points[input_ids].flatten(0, 1)
        for layer in self.layers:
            hidden = layer(hidden)
        return SimpleNamespace(last_hidden_state=hidden.unflatten(0, input_ids.shape))


class Encoder(nn.Module):
    """The MLP and a linear head, with the interface of a causal model of transformers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.base_model, self.head = config, Body(config), nn.Linear(config.hidden_size, HEAD)

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def encoder(name: str, points: Tensor, statistics: bool, seed: int = 0) -> Causal:
    """A random encoder of these points."""
    backend = Tokenizer(WordLevel({f"x{i}": i for i in range(len(points))}, "x0"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Causal(name, Encoder(Config(points, statistics)).eval(), PreTrainedTokenizerFast(tokenizer_object=backend))


def rows(count: int, length: int = 64) -> list[Record]:
    """The first ``count`` points in rows of ``length`` and one."""
    ids = [tuple(range(at, at + length)) for at in range(0, count - length + 1, length)]
    return [Record(f"x{i[0]}", (Piece("x", ids=(0, *i[1:], i[0]), trains=True),)) for i in ids]


def clusters(seed: int, count: int, dim: int = 64, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Points Float[N d] of classes that a random tanh network bends, and their classes Int[N]."""
    g = generator(seed, "clusters")
    label = torch.randint(classes, (count,), generator=g)
    latent = torch.randn(classes, 16, generator=g)[label] + torch.randn(count, 16, generator=g)
    one, two = torch.randn(16, 64, generator=g) / 2, torch.randn(64, dim, generator=g) / 4
    return (latent @ one).tanh() @ two, label


@torch.no_grad()
def features(causal: Causal, ids: Tensor) -> Tensor:
    """Float[N D] of some points, in eval mode."""
    causal.model.eval()
    return causal.model.base_model(ids[None]).last_hidden_state[0]
