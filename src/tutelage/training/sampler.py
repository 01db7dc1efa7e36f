"""The sampler beside the trainer: how far apart they are on the tokens that were drawn, and what is done about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.errors import ModelError, NeedError
from ..core.record import Piece, Record
from ..core.schedule import Progress, walk
from ..core.signal import Couples, Product, Read, Signal
from ..core.term import Tally, Term, Update
from ..data.steps.ask import Ask
from ..signals.importance import Truncated
from ..signals.readouts import LogProb
from .settings import TrainSettings

NOTE = "sampler"
NAMES = ("sampler_gap_nats", "sampler_k1_nats", "sampler_k3_nats")


@dataclass(frozen=True)
class Drawn:
    """Which tokens of a stage's rows a slot that moves has drawn itself, live, and what it said of them then.

    Their log-probabilities stand in the note ``sampler``, 1 at all other tokens (a log-probability is never above 0).

    Args:
        slot: The slot; empty where the stage's source has none that writes.
        authors: The names under which it writes.
    """

    slot: str = ""
    authors: frozenset[str] = frozenset()

    @classmethod
    def of(cls, source: Any, moves: Sequence[str]) -> Drawn:
        """The slot that moves and that a source's steps ask for text; one that others write along with has none."""
        asks = [part for _, part in walk(source) if isinstance(part, Ask)]
        named = [(ask.author or ask.writers[0], ask) for ask in asks]
        mixed = {author for author, ask in named if not isinstance(ask.who, str)}
        slot = next((a.who for n, a in named if isinstance(a.who, str) and a.who in moves and n not in mixed), "")
        return cls(slot, frozenset(n for n, a in named if slot and a.who == slot and n not in mixed))

    def marked(self, records: Sequence[Record]) -> list[Record]:
        """The records with the note on what was drawn."""
        if not self.slot:
            return list(records)
        return [replace(r, pieces=tuple(map(self._marked, r.pieces))) for r in records]

    def _marked(self, piece: Piece) -> Piece:
        said = piece.notes.get("log_prob")
        if piece.author not in self.authors or said is None or not piece.ids:
            return piece
        return replace(piece, notes={**piece.notes, NOTE: tuple(min(x, 0.0) for x in said)})

    def filled(self, batch: Batch) -> Batch:
        """The batch with the note at every token."""
        if not self.slot:
            return batch
        size = len(batch.units["tokens"])
        note = batch.notes.get(f"tokens.{NOTE}", torch.full((size,), torch.nan))
        return replace(batch, notes={**batch.notes, f"tokens.{NOTE}": note.nan_to_num(1.0)})

    def beside(self, over: str, losses: Iterable[Signal]) -> tuple[Signal, ...]:
        """What to read on the way of losses over a unit list: nothing where they do not read the slot's scores."""
        read = Read(self.slot)
        found = over == "tokens" and self.slot and any(read in loss.reads() for loss in losses)
        return (LogProb(read),) if found else ()


def tallies(log_q: Tensor, batch: Batch, used: Tensor) -> dict[str, Tally]:
    """How far the trainer is from the sampler on the drawn tokens that are trained on, with d = log q - log s.

    ``sampler_gap_nats``: the mean of ``|d|``. ``sampler_k1_nats``, the mean of ``-d``, and ``sampler_k3_nats``, that of
    ``exp(d) - 1 - d``, estimate KL(s || q) where the tokens were drawn at temperature 1 from the whole distribution.

    Args:
        log_q: Float[U], what the trainer says.
        batch: The batch, with the note ``sampler``.
        used: Bool[U], the tokens whose log_q is known.

    Source: http://joschu.net/blog/kl-approx.html.
    """
    said = batch.notes[f"tokens.{NOTE}"].to(log_q.device)
    found = used & (said <= 0)
    gap = (log_q.detach()[found] - said[found]).double()
    sums = (gap.abs().sum(), -gap.sum(), (gap.expm1() - gap).sum())
    return {name: Tally(float(x), float(found.sum())) for name, x in zip(NAMES, sums, strict=True)}


def corrected(update: Update, drawn: Drawn, cap: float) -> Update:
    """The update with each loss over tokens times ``min(q / s, cap)``, as if the trainer had drawn them.

    Raises:
        NeedError: A loss that relates tokens, which no factor a token corrects.
    """
    if not drawn.slot:
        return update
    return replace(update, objective=tuple(_corrected(term, drawn.slot, cap) for term in update.objective))


def _corrected(term: Term, slot: str, cap: float) -> Term:
    if term.over != "tokens" or _couples(term.loss):
        raise NeedError(
            f"term {term.name!r}",
            got="a loss that relates tokens, and train.sampler_gap = 'correct'",
            expected="one value a token, which its own ratio corrects",
            remedy="Set sampler_gap to 'warn' or 'refuse', or use a recipe that corrects by itself.",
        )
    return replace(term, loss=Product((term.loss, Truncated(LogProb(Read(slot)), NOTE, cap))))


def _couples(signal: Signal) -> bool:
    return signal.couples > Couples.NOTHING or any(_couples(c) for c in signal.children())


def judged(gap: float, settings: TrainSettings, progress: Progress) -> str:
    """What to say of a mean gap; empty where it is within the bound.

    Raises:
        ModelError: It is beyond the bound, and the settings refuse that.
    """
    if gap <= settings.sampler_gap_nats:
        return ""
    where = f"step {progress.step + 1} of stage {progress.stage!r}"
    told = f"a sampler and a trainer that are {gap:.3g} nats a token apart"
    if settings.sampler_gap == "refuse":
        raise ModelError(
            where,
            got=told,
            expected=f"at most train.sampler_gap_nats = {settings.sampler_gap_nats:g}",
            remedy="See that the engine computes in the trainer's precision and has its weights, and that rounds are "
            "not reused too often; or set sampler_gap to 'warn' or 'correct'. The last checkpoint is good.",
        )
    done = "they are corrected" if settings.sampler_gap == "correct" else "train.sampler_gap = 'correct' corrects that"
    return f"{where}: {told}, by another precision, old weights or reused rounds; {done}."
