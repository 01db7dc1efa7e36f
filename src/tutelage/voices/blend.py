"""Mixtures of voices, lazy: a mixture of distributions exists only for the units being worked on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.context import Context, spread
from ..core.errors import NeedError, SettingError
from ..core.schedule import Schedule, value_at
from ..core.scores import Chunk, Scores, Wrapped
from ..core.signal import Signal
from ..core.workspace import Workspace
from ..models.sample import Sample, Sampling, sample


@dataclass(frozen=True, eq=False)
class Mixed(Wrapped):
    """``log sum_i w_i p_i`` (linear) or the normalised ``sum_i w_i log p_i`` (geometric) of scores over one axis.

    Args:
        parts: Scores over the same U units.
        shares: One each: a number, or Float[U] where each unit has its own.
        geometric: Which of the two.
    """

    parts: tuple[Scores, ...]
    shares: tuple[float | Tensor, ...]
    geometric: bool = False

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.parts[0].num_categories

    @property
    def below(self) -> tuple[Scores, ...]:
        return self.parts

    def over(self, below: Sequence[Scores]) -> Scores:
        return Mixed(tuple(below), self.shares, self.geometric)

    def held(self, index: slice | Tensor) -> Scores:
        return Mixed(tuple(p.held(index) for p in self.parts), self._shares(index), self.geometric)

    def with_leaves(self, held: Chunk) -> Scores:
        return Mixed(tuple(p.with_leaves(held) for p in self.parts), self._shares(held.index), self.geometric)

    def at(self, rows: slice) -> Tensor:
        # a part without a share is left out: 0 * log 0 would be nan
        shares = self._shares(rows)
        present = [(s, p.at(rows)) for s, p in zip(shares, self.parts, strict=True) if isinstance(s, Tensor) or s > 0]
        if len(present) == 1 and not isinstance(present[0][0], Tensor):
            return present[0][1]
        if self.geometric:
            return torch.stack([_times(s, t) for s, t in present]).sum(0).log_softmax(-1)
        return torch.stack([t + _log(s, t) for s, t in present]).logsumexp(0)

    def _shares(self, index: slice | Tensor) -> tuple[float | Tensor, ...]:
        return tuple(s[index] if isinstance(s, Tensor) else s for s in self.shares)


def _times(share: float | Tensor, log_probs: Tensor) -> Tensor:
    if not isinstance(share, Tensor):
        return share * log_probs
    share = share.to(log_probs.dtype).unsqueeze(-1)
    return torch.where(share > 0, share * log_probs.masked_fill(share == 0, 0.0), 0.0)


def _log(share: float | Tensor, like: Tensor) -> float | Tensor:
    return share.to(like.dtype).log().unsqueeze(-1) if isinstance(share, Tensor) else math.log(share)


class Pool:
    """Several voices heard as one: what they say of the next token, over one vocabulary."""

    voices: tuple[str, ...]

    def slots(self) -> frozenset[str]:
        """Nothing by itself: what is pooled speaks in its own name."""
        return frozenset()

    def asks(self) -> tuple[tuple[str, str], ...]:
        """What it needs of whom: scores."""
        return tuple((v, "next") for v in self.voices)

    def upstream(self) -> Mapping[str, frozenset[str]]:
        """What it will ask of other voices."""
        return {v: frozenset({"next"}) for v in self.voices}

    def parts(self, ctx: Context, wants: frozenset[str]) -> tuple[Scores, ...]:
        """What each of them says.

        Raises:
            NeedError: Another field is wanted, or the vocabularies differ.
        """
        where = f"{type(self).__name__} of {', '.join(self.voices)}"
        if wants - {"next"}:
            raise NeedError(
                where,
                got=f"a read of {', '.join(sorted(wants))}",
                expected="a read of 'next'",
                remedy="Pool scores; features of different models have no common axis.",
            )
        parts = tuple(ctx.say(v)["next"] for v in self.voices)
        sizes = {p.num_categories for p in parts}
        if len(sizes) > 1:
            raise NeedError(
                where,
                got=f"vocabularies of {sorted(sizes)}",
                expected="one vocabulary",
                remedy="Pool models of one tokenizer.",
            )
        return parts


@dataclass(frozen=True)
class Blend(Pool):
    """A voice whose next-token distribution is a pool of others'.

    Args:
        voices: Names of the voices that are pooled.
        shares: One share a voice, adding up to 1: numbers, schedules, or signals >= 0 where each unit has its own;
            they are divided by their sum. No gradient reaches a share.
        geometric: Average log-probabilities and renormalise, instead of averaging probabilities.
    """

    voices: tuple[str, ...]
    shares: tuple[float | Schedule | Signal, ...]
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

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        """The pooled scores of ``next``."""
        parts = self.parts(ctx, wants)
        shares = [self._share(s, ctx, len(parts[0])) for s in self.shares]
        total = sum(shares)
        least = [float(s.min()) for s in shares if isinstance(s, Tensor) and s.numel()]
        if min(least, default=0.0) < 0 or not bool((torch.as_tensor(total) > 0).all()):
            raise SettingError(
                f"blend of {', '.join(self.voices)}",
                got="a unit whose shares are below 0, or all 0",
                expected="shares >= 0 of which one is above 0",
                remedy="Use signals that are not negative, such as probabilities.",
            )
        return {"next": Mixed(parts, tuple(s / total for s in shares), self.geometric)}

    def upstream(self) -> Mapping[str, frozenset[str]]:
        """What it will ask of other voices, for its shares too."""
        found = {who: set(what) for who, what in super().upstream().items()}
        for read in (r for s in self.shares if isinstance(s, Signal) for r in s.reads()):
            found.setdefault(read.who, set()).add(read.what)
        return {who: frozenset(what) for who, what in found.items()}

    @staticmethod
    def _share(share: float | Schedule | Signal, ctx: Context, num: int) -> float | Tensor:
        if not isinstance(share, Signal):
            return value_at(share, ctx.progress)
        return spread(ctx.still(share), share.over, "tokens", ctx.batch.units).expand(num)

    def sample(
        self, ws: Workspace, prompts: Sequence[Sequence[int]], settings: Sampling, seeds: Sequence[int]
    ) -> list[Sample]:
        """Continue each prompt, every token drawn from the average; the first voice's model says what ends an answer.

        Raises:
            NeedError: A geometric pool, or shares that change: what is drawn would be of another distribution.
        """
        if self.geometric or any(callable(s) for s in self.shares):
            raise NeedError(
                f"blend of {', '.join(self.voices)}",
                got="a wish for text from a geometric or scheduled pool",
                expected="a linear pool with fixed shares",
                remedy="Give the shares as numbers and leave geometric=False.",
            )
        models = [ws.models[v] for v in self.voices]
        others = [(m, float(s)) for m, s in zip(models[1:], self.shares[1:], strict=True)]  # type: ignore[arg-type]
        return sample(models[0], prompts, settings, seeds, others)
