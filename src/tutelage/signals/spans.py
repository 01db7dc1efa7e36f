"""Spans: text that two tokenizers both spell, but not as one token, as one more entry beside the tokens they share.

A chunk is compared where its first token is predicted. The tokens that both models share keep their scores; a chunk of
several tokens on either side is one entry more, with a score made of its tokens' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..core.context import Asks
from ..core.scores import Dense, Scores, Wrapped
from ..core.signal import Couples, Read, Signal, Still
from ..voices.align.vocabulary import Common, paired
from .chunks import RunSum
from .parts import PartFirst, PartMean, PartSum, Within, first_of, home_of
from .readouts import LogMass, LogProb
from .scale import Floor


@dataclass(frozen=True)
class Led:
    """A lens: another tokenizer's scores at the units of one's own that begin the same chunk.

    At units that begin no chunk, or share none, it gives scores of some other unit: read it there for nothing.

    Args:
        of: The unit list that the scores are over.
        into: The chunks.
        over: One's own unit list; the read must say the same.
    """

    of: str
    into: str
    over: str = "tokens"

    def __call__(self, value: Scores, ctx: Any) -> Scores:
        home = home_of(ctx.batch.units[self.over], self.over, self.into)
        if not len(value):  # nothing is left of the other side: no unit of one's own begins a chunk
            return Dense(torch.zeros(len(home), value.num_categories, device=home.device).log_softmax(-1))
        first = first_of(ctx.batch, self.of, self.into)
        index = torch.cat([first, first.new_zeros(1)])[home]  # -1, no chunk, takes the last
        return Indexed(value, index.clamp_max(len(value) - 1))


@dataclass(frozen=True, eq=False)
class Indexed(Wrapped):
    """Scores of units named by an index, asked for a chunk at a time; no gradient goes back through them.

    Args:
        of: Scores over W units.
        index: Int[U], for each unit here that of ``of``.
    """

    of: Scores
    index: Tensor

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.of.num_categories

    @property
    def below(self) -> tuple[Scores, ...]:
        return (self.of,)

    @property
    def swept(self) -> bool:  # type: ignore[override]
        return self.of.swept or bool(self.of.leaves())

    def over(self, below: Any) -> Scores:
        return Indexed(below[0], self.index)

    def __len__(self) -> int:
        return len(self.index)

    def leaves(self) -> tuple[Any, ...]:
        return ()  # the leaves below have other units than those that are swept

    def with_leaves(self, held: Any) -> Scores:
        return held.of(self)

    def held(self, index: slice | Tensor) -> Scores:
        return self.of.held(self.index[index])

    def at(self, rows: slice) -> Tensor:
        return self.held(rows).at(slice(None))


@dataclass(frozen=True)
class Single(Signal):
    """1 for each chunk that is one token to both, and the same one of those that they share, else 0: Float[chunks].

    Args:
        into: The chunks.
        mine: The model slot of one side.
        theirs: That of the other.
        units: The unit lists of the two.
    """

    into: str
    mine: str = "student"
    theirs: str = "teacher"
    units: tuple[str, str] = ("tokens", "teacher")
    couples: ClassVar[Couples] = Couples.ROW

    @property
    def over(self) -> str:
        return self.into

    def __call__(self, ctx: Asks) -> Tensor:
        num = len(ctx.batch.units[self.into])
        ids = paired(ctx.workspace.models, self.mine, self.theirs)  # type: ignore[attr-defined]
        alone, known = [], []
        for side, name in enumerate(self.units):
            units = ctx.batch.units[name]
            home = home_of(units, name, self.into)
            alone.append(torch.bincount(home[home >= 0], minlength=num) == 1)
            first = first_of(ctx.batch, name, self.into)
            target = ctx.target(name)
            said = torch.cat([target, target.new_full((1,), -1)])[first]
            known.append(said if ids is None else _places(ids[side].to(said.device), said, other=-1 - side))
        return (alone[0] & alone[1] & (known[0] == known[1])).float()


def _places(ids: Tensor, said: Tensor, other: int) -> Tensor:
    """The place of each id in a list, ``other`` for one that is not in it."""
    order = ids.argsort()
    found = torch.searchsorted(ids[order], said).clamp_max(len(ids) - 1)
    return torch.where(ids[order][found] == said, order[found], torch.full_like(said, other))


@dataclass(frozen=True)
class AfterSingle(Signal):
    """1 for each chunk that follows a single one, or touches none before it: starts of runs that a single one ends.

    Args:
        single: 1 for single chunks.
    """

    single: Signal
    couples: ClassVar[Couples] = Couples.ROW

    def __call__(self, ctx: Asks) -> Tensor:
        single, chunks = ctx(self.single), ctx.batch.units[self.over]
        touches = (chunks.row[1:] == chunks.row[:-1]) & (chunks.time[1:] == chunks.time[:-1] + 1)
        return torch.cat([torch.ones_like(single[:1]), 1 - touches.to(single.dtype) * (1 - single[:-1])])


def odds(read: Read, other: str, into: str, *, raw: bool, starts: Signal | None = None) -> Signal:
    """``log`` of the mass of shared tokens over that of the span, at each chunk's first token: Float[chunks].

    The span's score is the mean of its tokens' own, each where it is predicted: of their logits, or of their
    log-probabilities.

    Args:
        read: One side's scores over its own tokens; its voice has the name of its model slot.
        other: The other side's slot.
        into: The chunks.
        raw: Logits instead of log-probabilities.
        starts: Where runs of chunks start that are one span; each chunk is one by default.
    """
    shared = Read(read.who, read.what, (*read.through, Common(read.who, other, rest=False)), read.over)
    among, whole, token = LogMass(shared, raw), LogMass(read, raw), LogProb(read)
    score = token + whole if raw else token
    span: Signal = PartMean(score, into)
    if starts is not None:
        total, number = (RunSum(PartSum(s, into), starts) for s in (score, Within(into, read.over)))
        span = total * Floor(number, 1.0) ** -1.0
    return PartFirst(among if raw else among - whole, into) - span


@dataclass(frozen=True)
class WithSpan(Signal):
    """Reverse KL over the shared tokens and one entry more, the span: Float[chunks].

    With d the log-odds of the shared tokens against the span and K the KL among the shared tokens alone, it is
    ``s(d_q) (K + log s(d_q) - log s(d_p)) + s(-d_q) (log s(-d_q) - log s(-d_p))``, s the sigmoid: the chain rule, so
    that no entry is ever joined to a vocabulary. A single chunk has no entry of its own, and its value is K.

    Args:
        inside: K, at each chunk's first token.
        q: d of the learner.
        p: d of the side that is matched; it gets no gradient.
        single: 1 for single chunks.
    """

    inside: Signal
    q: Signal
    p: Signal
    single: Signal

    def __call__(self, ctx: Asks) -> Tensor:
        inside, q, p = ctx(self.inside), ctx(self.q), ctx(Still(self.p))
        among = logsigmoid(q).exp() * (inside + logsigmoid(q) - logsigmoid(p))
        span = logsigmoid(-q).exp() * (logsigmoid(-q) - logsigmoid(-p))
        return torch.where(ctx(self.single) > 0, inside, among + span)

    def children(self) -> tuple[Signal, ...]:
        # what is fixed comes first: what both sides read of the teacher is then known when q is worked out
        return (Still(self.p), self.single, self.inside, self.q)
