"""Several voices, the surer of them heard more: at each unit, by the entropy of what each says there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.context import Context
from ..core.errors import SettingError
from ..core.scores import Scores, Wrapped
from .blend import Pool


@dataclass(frozen=True, eq=False)
class Heard(Wrapped):
    """``log sum_i w_i p_i`` with ``w = softmax_i(-sharpness H(p_i))`` at each unit; the weights carry no gradient."""

    parts: tuple[Scores, ...]
    sharpness: float

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.parts[0].num_categories

    @property
    def below(self) -> tuple[Scores, ...]:
        return self.parts

    def over(self, below: Sequence[Scores]) -> Scores:
        return Heard(tuple(below), self.sharpness)

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


@dataclass(frozen=True)
class Confident(Pool):
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

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        """The pooled scores of ``next``.

        Raises:
            NeedError: Another field is wanted, or the vocabularies differ.
        """
        return {"next": Heard(self.parts(ctx, wants), float(self.sharpness))}
