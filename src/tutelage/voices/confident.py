"""Several voices, the surer of them heard more: at each unit, by the entropy of what each says there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.context import Context
from ..core.errors import SettingError
from ..core.scores import Chunk, Lazy, Scores
from .blend import parts_of


@dataclass(frozen=True, eq=False)
class Heard(Scores):
    """``log sum_i w_i p_i`` with ``w = softmax_i(-sharpness H(p_i))`` at each unit; the weights carry no gradient."""

    parts: tuple[Scores, ...]
    sharpness: float

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.parts[0].num_categories

    @property
    def swept(self) -> bool:  # type: ignore[override]
        """Whether a part is."""
        return any(p.swept for p in self.parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def held(self, index: slice | Tensor) -> Scores:
        return Heard(tuple(p.held(index) for p in self.parts), self.sharpness)

    def at(self, rows: slice) -> Tensor:
        said = torch.stack([p.at(rows) for p in self.parts])
        with torch.no_grad():
            sure = -torch.special.entr(said.exp()).sum(-1)
            if math.isinf(self.sharpness):
                # ties go to the voice that is named first
                shares = torch.zeros_like(sure).scatter_(0, sure.argmax(0, keepdim=True), 1.0)
            else:
                shares = (self.sharpness * sure).softmax(0)
        return (said + shares.log().unsqueeze(-1)).logsumexp(0)

    def leaves(self) -> tuple[Lazy, ...]:
        return tuple(leaf for p in self.parts for leaf in p.leaves())

    def with_leaves(self, held: Chunk) -> Scores:
        return Heard(tuple(p.with_leaves(held) for p in self.parts), self.sharpness)


@dataclass(frozen=True)
class Confident:
    """A voice that pools others by how sure each is at a position.

    The share of voice i is ``softmax_i(-sharpness H_i)``, H its entropy in nats: 0 is the plain mean, infinity hears
    the surest alone, and so routes each position to one of them.

    Args:
        voices: Names of the voices, two or more.
        sharpness: >= 0, per nat.
    """

    voices: tuple[str, ...]
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        if len(set(self.voices)) < max(2, len(self.voices)) or not self.sharpness >= 0:
            raise SettingError(
                "Confident",
                got=f"voices {self.voices}, sharpness={self.sharpness}",
                expected="two different voices or more, and a sharpness >= 0",
                remedy="1 hears a voice that is a nat surer 2.7 times as much.",
            )

    def slots(self) -> frozenset[str]:
        """Nothing by itself: what is pooled speaks in its own name."""
        return frozenset()

    def asks(self) -> tuple[tuple[str, str], ...]:
        """What it needs of whom: scores."""
        return tuple((v, "next") for v in self.voices)

    def upstream(self) -> Mapping[str, frozenset[str]]:
        """What it will ask of other voices."""
        return {v: frozenset({"next"}) for v in self.voices}

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        """The pooled scores of ``next``.

        Raises:
            NeedError: Another field is wanted, or the vocabularies differ.
        """
        return {"next": Heard(parts_of(ctx, self.voices, wants, "pool"), float(self.sharpness))}
