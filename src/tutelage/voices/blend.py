"""Mixtures of voices, lazy: a mixture of distributions exists only for the units being worked on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.context import Context
from ..core.errors import NeedError, SettingError
from ..core.schedule import Schedule, value_at
from ..core.scores import Lazy, Scores


@dataclass(frozen=True, eq=False)
class Mixed(Scores):
    """``log sum_i w_i p_i`` (linear) or the normalised ``sum_i w_i log p_i`` (geometric) of scores over one axis."""

    parts: tuple[Scores, ...]
    shares: tuple[float, ...]
    geometric: bool = False

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.parts[0].num_categories

    def __len__(self) -> int:
        return len(self.parts[0])

    def held(self, index: slice | Tensor) -> Scores:
        return Mixed(tuple(p.held(index) for p in self.parts), self.shares, self.geometric)

    def at(self, rows: slice) -> Tensor:
        terms = [p.at(rows) for p in self.parts]
        if self.geometric:
            return sum(s * t for s, t in zip(self.shares, terms, strict=True)).log_softmax(-1)  # type: ignore[union-attr]
        present = [t + math.log(s) for s, t in zip(self.shares, terms, strict=True) if s > 0]
        return present[0] if len(present) == 1 else torch.stack(present).logsumexp(0)

    def leaves(self) -> tuple[Lazy, ...]:
        return tuple(leaf for p in self.parts for leaf in p.leaves())

    def with_leaves(self, held: dict[int, Scores]) -> Scores:
        return Mixed(tuple(p.with_leaves(held) for p in self.parts), self.shares, self.geometric)


@dataclass(frozen=True)
class Blend:
    """A voice whose next-token distribution is a pool of others'.

    Args:
        voices: Names of the voices that are pooled.
        shares: One share a voice, adding up to 1: numbers or schedules.
        geometric: Average log-probabilities and renormalise, instead of averaging probabilities.
    """

    voices: tuple[str, ...]
    shares: tuple[float | Schedule, ...]
    geometric: bool = False

    def __post_init__(self) -> None:
        fixed = [s for s in self.shares if not callable(s)]
        off = len(fixed) == len(self.shares) and abs(sum(fixed) - 1) > 1e-6
        if len(self.voices) != len(self.shares) or off or any(s < 0 for s in fixed):
            raise SettingError(
                "Blend",
                got=f"shares {self.shares} for voices {self.voices}",
                expected="one share >= 0 a voice, adding up to 1",
                remedy="Give each voice its share.",
            )

    def slots(self) -> frozenset[str]:
        """Nothing by itself: what is pooled speaks in its own name."""
        return frozenset()

    def upstream(self) -> Mapping[str, frozenset[str]]:
        """What it will ask of other voices."""
        return {v: frozenset({"next"}) for v in self.voices}

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        """The pooled scores of ``next``."""
        if wants - {"next"}:
            raise NeedError(
                f"blend of {', '.join(self.voices)}",
                got=f"a read of {', '.join(sorted(wants))}",
                expected="a read of 'next'",
                remedy="Pool scores; features of different models have no common axis.",
            )
        parts = tuple(ctx.say(v)["next"] for v in self.voices)
        sizes = {p.num_categories for p in parts}
        if len(sizes) > 1:
            raise NeedError(
                f"blend of {', '.join(self.voices)}",
                got=f"vocabularies of {sorted(sizes)}",
                expected="one vocabulary",
                remedy="Pool models of one tokenizer.",
            )
        shares = tuple(value_at(s, ctx.progress) for s in self.shares)
        return {"next": Mixed(parts, tuple(s / sum(shares) for s in shares), self.geometric)}
