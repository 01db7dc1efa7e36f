"""Targets that keep secrets: which tokens a pattern marks, and noise that the same context always gets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.context import Asks, spread
from ..core.errors import NeedError, SettingError
from ..core.joined import couples
from ..core.scores import Chunk, Rows, Scores, Wrapped
from ..core.signal import Couples, Read, Signal
from ..models.spelling import spelling

WINDOW = 16  # tokens of context that the noise is a function of


@dataclass(frozen=True)
class Marked(Signal):
    """1 for each token that a match of a pattern in the trained text of its record reaches into, else 0: Float[U].

    The text is what the record's trained tokens spell, so a token is marked for what it is, not for what it follows.

    Args:
        pattern: A regular expression of Python's ``re``.
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise SettingError(
                "Marked.pattern", got=f"{self.pattern!r}: {error}", expected="a regular expression", remedy="Mend it."
            ) from error

    @property
    def over(self) -> str:
        return "tokens"

    def __call__(self, ctx: Asks) -> Tensor:
        workspace = ctx.workspace  # type: ignore[attr-defined]
        table = spelling(workspace.models["student"].tokenizer)
        units = ctx.batch.units["tokens"]
        assert units.target is not None
        out = torch.zeros(len(units))
        for row in range(ctx.batch.num_rows):
            places = (units.row == row).nonzero().squeeze(1).cpu()
            words = [table[i] for i in units.target[places].tolist()]
            out[places] = torch.tensor(_reached(words, self.pattern))
        return out.to(units.row.device)


def _reached(words: Sequence[bytes], pattern: str) -> list[float]:
    """1 for each stretch of bytes that a match in the joined text reaches into."""
    # one character a byte: places in the text are places in the bytes, whatever characters a token cuts
    text = b"".join(words).decode("latin-1")
    spans = [match.span() for match in re.finditer(pattern, text) if match.end() > match.start()]
    flags, at = [], 0
    for word in words:
        flags.append(float(any(start < at + len(word) and at < end for start, end in spans)))
        at += len(word)
    return flags


@dataclass(frozen=True)
class KeyedNoise:
    """Scores whose probabilities have noise: ``p' = max(0, p + w n) / sum``, n half-normal of scale ``scale``.

    n is a function of ``key`` and of the last 16 tokens before the unit, the prompt's among them, so the same context
    gets the same noise in every epoch and batch; noise drawn anew each time would average out.

    Args:
        weight: A signal over tokens in [0, 1]; where it is 0 the scores stay as they are, bit for bit.
        scale: > 0, in probability.
        key: The secret; who knows it can take the noise away.
        over: The unit list of the scores.

    Raises:
        NeedError: When read: features and not scores.
    """

    weight: Signal
    scale: float = 0.1
    key: str = "tutelage"
    over: str = "tokens"

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise SettingError("KeyedNoise.scale", got=str(self.scale), expected="a number > 0", remedy="0.1 is usual.")

    @property
    def couples(self) -> Couples:
        """What one unit's noise depends on."""
        return Couples.BATCH if couples(self.weight) else Couples.NOTHING

    def reads(self) -> frozenset[Read]:
        """What its weight reads."""
        return self.weight.reads()

    def __call__(self, value: Any, ctx: Any) -> Scores:
        if not isinstance(value, Scores):
            raise NeedError("KeyedNoise", got="features", expected="scores", remedy="Read 'next'.")
        weight = spread(ctx.still(self.weight), self.weight.over, self.over, ctx.batch.units).expand(len(value))
        return Noised(value, tuple(context_seeds(ctx, self.key)), (weight * self.scale).detach())


def context_seeds(ctx: Any, key: str) -> list[int]:
    """A seed for each token's context: of the ids that the model reads before it, in its own row."""
    view = ctx.batch.views["main"]
    ids = view.inputs["input_ids"].flatten().tolist()
    own = dict(zip(view.real.tolist(), view.row.tolist(), strict=True))
    out = []
    for at, row in zip(view.at.tolist(), ctx.batch.units["tokens"].row.tolist(), strict=True):
        window = [ids[p] for p in range(max(0, at - WINDOW + 1), at + 1) if own.get(p) == row]
        digest = hashlib.blake2b(repr(window).encode(), key=key.encode()[:64], digest_size=8).digest()
        out.append(int.from_bytes(digest, "little") >> 1)
    return out


@dataclass(frozen=True, eq=False)
class Seeded(Wrapped):
    """Scores with noise drawn from a seed of each unit's own; a subclass says how it is added.

    Args:
        of: Scores over U units.
        seeds: One a unit.
    """

    of: Scores
    seeds: tuple[int, ...]

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.of.num_categories

    @property
    def below(self) -> tuple[Scores, ...]:
        return (self.of,)

    def over(self, below: Sequence[Scores]) -> Scores:
        return replace(self, of=below[0])

    def held(self, index: slice | Tensor) -> Scores:
        return self.some(self.of.held(index), index)

    def with_leaves(self, held: Chunk) -> Scores:
        return self.some(self.of.with_leaves(held), held.index)

    def some(self, of: Scores, index: slice | Tensor) -> Scores:
        """The same over some units, whose scores are given."""
        seeds = self.seeds[index] if isinstance(index, slice) else tuple(self.seeds[i] for i in index.tolist())
        return replace(self, of=of, seeds=seeds)


@dataclass(frozen=True, eq=False)
class Noised(Seeded):
    """``log (max(0, p + s n) / sum)`` with n drawn from each unit's seed.

    Args:
        size: Float[U], s; 0 leaves a unit as it is.
    """

    size: Tensor

    def some(self, of: Scores, index: slice | Tensor) -> Scores:
        """The same over some units, whose scores are given."""
        return replace(super().some(of, index), size=self.size[index])  # type: ignore[type-var]

    def at(self, rows: Rows) -> Tensor:
        log_p, size, seeds = self.of.at(rows), self.size[rows], self.seeds[rows]
        noisy = [n for n, s in enumerate(size.tolist()) if s > 0]
        if not noisy:
            return log_p
        place = torch.tensor(noisy, device=log_p.device)
        draws = [torch.randn(log_p.shape[-1], generator=torch.Generator().manual_seed(seeds[n])) for n in noisy]
        noise = torch.stack(draws).abs().to(log_p) * size[place].to(log_p).unsqueeze(-1)
        some = (log_p[place].exp() + noise).clamp_min(0)
        return log_p.index_copy(0, place, (some / some.sum(-1, keepdim=True)).log())
