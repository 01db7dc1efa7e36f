"""Neighbours: what two voices say at a token and at the one after it, within a phrase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.batch import Units
from ..core.context import Asks
from ..core.errors import NeedError, SettingError
from ..core.scores import Dense, Lazy, Scores
from ..core.signal import Couples, Read, Signal
from ..models.spelling import spelling

ENDS = frozenset(b".,;:!?\n")


@dataclass(frozen=True)
class Next:
    """A lens: the scores of the unit that follows in the record, a record's last one's own: lazy as those below."""

    over: str = "tokens"

    def __call__(self, value: Scores, ctx: Any) -> Scores:
        place = next_of(ctx.batch.units[self.over])
        if isinstance(value, Lazy):
            return Lazy(value.hidden.index_select(0, place), value.head)
        if isinstance(value, Dense):
            return Dense(value.log_probs.index_select(0, place))
        raise NeedError(
            "neighbouring scores",
            got=type(value).__name__,
            expected="scores of one model",
            remedy="Read the model's own `next`, without another lens or voice in between.",
        )


def next_of(units: Units) -> Tensor:
    """Int[U], the place of the unit that follows in the record; a record's last unit is its own."""
    place = torch.arange(len(units), device=units.row.device)
    follows = units.row[1:] == units.row[:-1]
    return place + torch.cat([follows, follows.new_zeros(1)]).long() if len(units) else place


@dataclass(frozen=True)
class MatchPairs(Signal):
    """``sum_c ((q_i q_j)^a - (p_i p_j)^a)^2`` of each unit i and the one j that follows: Float[U].

    The products of neighbouring distributions say how two tokens go together; a = 1/2 keeps them from vanishing in a
    large vocabulary. The last unit of a record is compared with itself: weigh it 0 with ``SamePhrase``.

    Args:
        power: a, in (0, 1].
        q: The learner's side at the unit.
        p: The side that is matched there; it gets no gradient.
        q_next: The learner's side at the next unit.
        p_next: The side that is matched there.

    Source: arXiv:2407.10068.
    """

    power: float = 0.5
    q: Read = Read("student")
    p: Read = Read("teacher")
    q_next: Read = Read("student", through=(Next(),))
    p_next: Read = Read("teacher", through=(Next(),))

    def __post_init__(self) -> None:
        if not 0 < self.power <= 1:
            raise SettingError("MatchPairs.power", got=str(self.power), expected="in (0, 1]", remedy="0.5 is usual.")

    def __call__(self, ctx: Asks) -> Tensor:
        own = ctx.log_probs(self.q) + ctx.log_probs(self.q_next)
        other = (ctx.log_probs(self.p) + ctx.log_probs(self.p_next)).detach()
        return ((self.power * own).exp() - (self.power * other).exp()).square().sum(-1)


@dataclass(frozen=True)
class SamePhrase(Signal):
    """1 for each token that the next one of its record continues a phrase with, else 0: Float[U].

    A phrase ends with a token that holds punctuation (``. , ; : ! ?``) or a line end, and after ``longest`` tokens; a
    token that spells nothing, such as a special one, is in none.

    Args:
        longest: Tokens of a phrase at most, >= 2.
    """

    longest: int = 8
    couples: ClassVar[Couples] = Couples.ROW

    def __post_init__(self) -> None:
        if self.longest < 2:
            raise SettingError(
                "SamePhrase.longest", got=str(self.longest), expected="at least 2", remedy="A pair has two tokens."
            )

    @property
    def over(self) -> str:
        return "tokens"

    def __call__(self, ctx: Asks) -> Tensor:
        units = ctx.batch.units["tokens"]
        tokenizer = ctx.workspace.models["student"].tokenizer  # type: ignore[attr-defined]
        table, special = spelling(tokenizer), set(tokenizer.all_special_ids)
        words = [b"" if i in special else table[i] for i in ctx.target("tokens").tolist()]
        out, length, rows = torch.zeros(len(units)), 0, units.row.tolist()
        for place in range(len(words) - 1):
            length += 1
            inside = bool(words[place]) and not ENDS & set(words[place]) and bool(words[place + 1])
            inside = inside and rows[place] == rows[place + 1] and length < self.longest
            out[place] = float(inside)
            length = length if inside else 0
        return out.to(units.row.device)
