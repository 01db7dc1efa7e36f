"""Points: classification by small networks with the interface of causal models; a prompt is a point, its answer a class.

A prompt is one token that names a point of R^d; the network reads the point, and the next token is its class. So the
recipes' token road is classification, with accuracies over as many fresh points as wanted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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


class Body(nn.Module):
    """An MLP over the point that a token names: Float[B T] of ids to Float[B T width]."""

    def __init__(self, points: Tensor, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.register_buffer("points", points)
        self.num_classes = num_classes
        sizes = (points.shape[1], *widths)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes))

    def forward(self, input_ids: Tensor, past_key_values: Any = None, **ignored: Any) -> Any:
        if past_key_values is not None:
            past_key_values.update(*[input_ids[:, None, :, None].float()] * 2, 0)
        hidden = self.points[(input_ids - self.num_classes).clamp(0, len(self.points) - 1)]
        for layer in self.layers:
            hidden = layer(hidden)
        return SimpleNamespace(last_hidden_state=hidden)


class Classifier(nn.Module):
    """The MLP and a linear head over classes."""

    def __init__(self, points: Tensor, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.base_model = Body(points, widths, num_classes)
        self.head = nn.Linear(widths[-1], num_classes)
        self.config = SimpleNamespace(num_hidden_layers=len(widths), hidden_size=widths[-1], max_position_embeddings=None)
        self.config.get_text_config = lambda decoder=True: self.config

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def model(name: str, points: Tensor, widths: Sequence[int], num_classes: int, seed: int = 0) -> Causal:
    """A network of some widths, drawn by the seed."""
    words = [f"c{i}" for i in range(num_classes)] + [f"x{i}" for i in range(len(points))]
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, "c0"))
    with torch.random.fork_rng():
        torch.manual_seed(int(generator(seed, name).initial_seed()) % (1 << 31))
        return Causal(name, Classifier(points, widths, num_classes).eval(), PreTrainedTokenizerFast(tokenizer_object=backend))


def rows(labels: Sequence[int], num_classes: int, first: int = 0, **notes: Sequence[float]) -> list[Record]:
    """Points ``first``, ``first + 1`` ... with their classes as answers, and notes of the row."""
    return [
        Record(
            f"x{first + i}",
            (Piece(f"x{first + i}", part="prompt", ids=(num_classes + first + i,)), Piece(f"c{y}", part="answer", trains=True, ids=(int(y),))),
            {"label": f"c{y}"},
            {name: float(values[i]) for name, values in notes.items()},
        )
        for i, y in enumerate(labels)
    ]


@torch.no_grad()
def logits(causal: Causal, first: int, count: int) -> Tensor:
    """Float[count C] of a stretch of the points."""
    inner = causal.model
    ids = torch.arange(first, first + count)[None] + inner.base_model.num_classes
    return inner.head(inner.base_model(ids).last_hidden_state[0])


def accuracy(causal: Causal, labels: Tensor, first: int) -> float:
    """The share of points whose most probable class is the label."""
    return float((logits(causal, first, len(labels)).argmax(-1) == labels).float().mean())


def fit(causal: Causal, labels: Tensor, first: int = 0, *, steps: int = 400, rate: float = 0.01, batch: int = 256, seed: int = 0) -> Causal:
    """Plain supervised training, for teachers: cross-entropy by Adam."""
    inner, g = causal.model, generator(seed, "fit")
    inner.requires_grad_(True)
    optimiser = torch.optim.Adam(inner.parameters(), lr=rate)
    for _ in range(steps):
        pick = torch.randint(len(labels), (min(batch, len(labels)),), generator=g)
        said = inner.head(inner.base_model((pick + first)[None] + inner.base_model.num_classes).last_hidden_state[0])
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(said, labels[pick]).backward()
        optimiser.step()
    inner.requires_grad_(False)
    return causal


def mixture(seed: int, num_classes: int, dim: int, count: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Points Float[N d] of a Gaussian mixture with one centre a class, and their classes Int[N]."""
    g = generator(seed, "mixture")
    centres = spread * torch.randn(num_classes, dim, generator=g)
    label = torch.randint(num_classes, (count,), generator=g)
    return centres[label] + torch.randn(count, dim, generator=g), label
