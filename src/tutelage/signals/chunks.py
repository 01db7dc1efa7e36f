"""Chunks: the likelihood of a stretch of text, and of stretches that are merged until a word ends.

A chunk is a unit of its own list (``NAME.chunks`` of a foreign view); the tokens of either tokenizer that it is made of
name it in ``Units.part_of``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.errors import SettingError
from ..core.scores import Scores, Wrapped, log_rest
from ..core.signal import Couples, Read, Signal, Still
from ..models.spelling import opens
from .parts import home_of


@dataclass(frozen=True)
class Starts(Signal):
    """1 for each chunk that starts a run, else 0: Float[chunks].

    A run goes on for as long as the text after a chunk is unlikely to begin a new word: it ends where the given
    probability, read at the token that follows the chunk, exceeds ``above``, and where no token follows.

    Args:
        of: A signal over the finer units: the probability that a new word begins there.
        into: The chunks.
        above: In [0, 1); 0 ends a run after each chunk that could end a word at all.
    """

    of: Signal
    into: str
    above: float = 0.1
    couples: ClassVar[Couples] = Couples.ROW

    def __post_init__(self) -> None:
        if not 0 <= self.above < 1:
            raise SettingError(
                "Starts.above", got=str(self.above), expected="a probability in [0, 1)", remedy="0.1 is usual."
            )

    @property
    def over(self) -> str:
        return self.into

    def __call__(self, ctx: Asks) -> Tensor:
        fine, chunks = ctx.batch.units[self.of.over], ctx.batch.units[self.into]
        home = home_of(fine, self.of.over, self.into)
        begins = ctx(Still(self.of)).expand(len(fine))
        if not len(chunks):
            return begins.new_zeros(0)
        place = torch.arange(len(fine), device=home.device)
        last = torch.zeros(len(chunks), dtype=torch.long, device=home.device)
        last = last.scatter_reduce(0, home[home >= 0], place[home >= 0], "amax")
        follows = (last + 1).clamp_max(len(fine) - 1)
        # the token after a chunk opens the next one, or the two chunks do not touch
        touches = (chunks.row[1:] == chunks.row[:-1]) & (chunks.time[1:] == chunks.time[:-1] + 1)
        goes_on = touches & (begins[follows][:-1] <= self.above)
        return torch.cat([torch.ones_like(begins[:1]), (~goes_on).to(begins.dtype)])

    def children(self) -> tuple[Signal, ...]:
        return (Still(self.of),)


@dataclass(frozen=True)
class RunSum(Signal):
    """The sum over each run of chunks, at the chunk that starts it; 0 at the others: Float[chunks].

    Args:
        of: A signal over chunks.
        starts: 1 where a run starts, the first chunk of all included.
    """

    of: Signal
    starts: Signal
    couples: ClassVar[Couples] = Couples.ROW

    def __call__(self, ctx: Asks) -> Tensor:
        values, starts = ctx(self.of), ctx(self.starts) > 0
        first = starts.nonzero().squeeze(1)
        if not len(first):
            return values * 0
        run = starts.long().cumsum(0) - 1
        sums = torch.zeros(len(first), dtype=values.dtype, device=values.device).index_add(0, run, values)
        return torch.zeros_like(values).index_add(0, first, sums)


@dataclass(frozen=True)
class MatchEvents(Signal):
    """``compare(log q(event), log p(event))`` of binary events, "this text" against "any other"; p gets no gradient.

    Args:
        compare: ``(log_q, log_p) Float[U] -> Float[U]``, both of the event that happened.
        q: The learner's log-probability of each event.
        p: The teacher's.
    """

    compare: Any
    q: Signal
    p: Signal

    def __call__(self, ctx: Asks) -> Tensor:
        return self.compare(ctx(self.q), ctx(Still(self.p)))

    def children(self) -> tuple[Signal, ...]:
        # what is fixed comes first: what both sides read of the teacher is then known when q is worked out
        return (Still(self.p), self.q)


@dataclass(frozen=True)
class BinaryEvent:
    """``T KL(Bernoulli(p^(1/T)) || Bernoulli(q^(1/T)))`` of one event's log-probabilities: Float[...].

    ``a = (log p - epsilon) / T``, ``b = (log q - epsilon) / T`` and the value is
    ``T (e^a (a - b) + (1 - e^a) (log(1 - e^a) - log(1 - e^b)))``: binary cross-entropy less its least value, so 0 iff
    the two agree. The factor T keeps its size: it tends to ``(A - B) + A (log -B - log -A)`` with ``A = log p`` and
    ``B = log q``. Worked out in float64; log-probabilities above 0 by rounding count as 0.

    Args:
        temperature: > 0; large values keep a gradient where chunks are long and so unlikely.
        epsilon: In nats, > 0: keeps a certain event from an infinite loss. 1e-4 is the paper's 1e-6 at T = 100; taken
            before the division it leaves the limit of large T as it is.

    Source: arXiv:2503.20083.
    """

    temperature: float = 100.0
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.temperature < 1e9 or not 0 < self.epsilon < 1e-2:
            raise SettingError(
                "BinaryEvent",
                got=f"temperature={self.temperature}, epsilon={self.epsilon}",
                expected="temperature in (0, 1e9), epsilon in (0, 0.01)",
                remedy="100 and 1e-4 are usual.",
            )

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        a, b = ((x.double().clamp_max(0) - self.epsilon) / self.temperature for x in (log_p, log_q))
        no_a, no_b = log_rest(a.unsqueeze(-1)), log_rest(b.unsqueeze(-1))
        value = a.exp() * (a - b) - torch.expm1(a) * (no_a - no_b)
        return (self.temperature * value).to(log_q.dtype)


@dataclass(frozen=True)
class Opens:
    """A lens: scores of the vocabulary as scores of two categories, "the word goes on" and "a new word begins".

    Args:
        slot: The model whose tokens are judged: those that start with white space, and special tokens, begin anew.
    """

    slot: str

    def __call__(self, value: Scores, ctx: Any) -> Scores:
        flags = opens(ctx.workspace.models[self.slot].tokenizer)
        size = value.num_categories
        return Binned(value, torch.tensor((*flags, *[False] * size)[:size]))


@dataclass(frozen=True, eq=False)
class Binned(Wrapped):
    """Scores of two categories: the mass outside and inside a set, lazy where the scores below are.

    Args:
        of: The scores of all categories.
        inside: Bool[C].
    """

    of: Scores
    inside: Tensor
    num_categories: int = 2

    @property
    def below(self) -> tuple[Scores, ...]:
        return (self.of,)

    def over(self, below: Sequence[Scores]) -> Scores:
        return Binned(below[0], self.inside)

    def at(self, rows: slice) -> Tensor:
        log_probs = self.of.at(rows)
        inside = self.inside.to(log_probs.device)
        return torch.stack([log_probs.masked_fill(side, -torch.inf).logsumexp(-1) for side in (inside, ~inside)], -1)


@dataclass(frozen=True)
class Last(Signal):
    """The probability of the last category of a read: Float[U]."""

    of: Read

    def __call__(self, ctx: Asks) -> Tensor:
        return ctx.log_probs(self.of)[..., -1].exp()
