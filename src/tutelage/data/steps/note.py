"""Note: compute a signal once and write its values on the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ...core.batch import Batch
from ...core.context import Context
from ...core.errors import SettingError
from ...core.record import Piece, Record
from ...core.signal import Couples, Noted, Signal, Still
from ...core.voice import Says
from ...core.workspace import Workspace
from ..collate import Collate
from ..render import render

LONGEST = 1 << 20


@dataclass(frozen=True)
class Note:
    """The values of a signal, without gradient, as they are when the rows are made; ``Noted`` reads them later.

    What must stay as it was at rollout time belongs here: old log-probabilities, rewards, a teacher's scores. A signal
    over tokens is written on the trained pieces, one number a token; one over rows on the record.

    Args:
        name: The note's name.
        signal: What is computed; its reads name model slots, or ``voices``.
        batch_size: Rows computed at once; groups are not split.
        voices: Voices besides the model slots.
        views: Other renderings of a record, by the name that voices ``see``.
    """

    name: str
    signal: Signal
    batch_size: int = 16
    voices: Mapping[str, Any] = field(default_factory=dict)
    views: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SettingError(
                "Note.batch_size", got=str(self.batch_size), expected="at least 1", remedy="16 is usual."
            )

    @property
    def reads(self) -> str:
        """What it must see at once: that is decided by what the signal couples."""
        most = _coupling(self.signal)
        return "whole" if most is Couples.BATCH else "group" if most is Couples.GROUP else "row"

    def slots(self) -> frozenset[str]:
        """The model slots whose weights the note depends on."""
        own = (voice.slots() for voice in self.voices.values())
        return frozenset(r.who for r in self.signal.reads() if r.who not in self.voices).union(*own)

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The records, with the note."""
        size = self.batch_size if self.reads == "row" else None
        while rows := list(islice(records, size)):
            yield from self._written(rows, ws)

    def _written(self, rows: list[Record], ws: Workspace) -> Iterator[Record]:
        reader = reader_of(self.signal, ws)
        values, over, batch = values_of(self.signal, rows, ws, self.voices, self.views)
        row = batch.units[over].row.cpu()
        for number, record in enumerate(rows):
            own = values[row == number]
            yield self._on_row(record, own) if over == "rows" else self._on_pieces(record, own, reader.tokenizer)

    def _on_row(self, record: Record, values: Tensor) -> Record:
        return replace(record, notes={**record.notes, self.name: float(values[0])})

    def _on_pieces(self, record: Record, values: Tensor, tokenizer: Any) -> Record:
        rest = values.tolist()
        sizes = {s.piece: len(s.ids) for s in render(record, tokenizer) if s.trains}
        # a first token, which nothing predicts, is not a unit: its note is 0 and never read
        rest = [0.0] * (sum(sizes.values()) - len(rest)) + rest
        pieces: list[Piece] = []
        for number, piece in enumerate(record.pieces):
            if number in sizes:
                mine, rest = tuple(rest[: sizes[number]]), rest[sizes[number] :]
                piece = replace(piece, notes={**piece.notes, self.name: mine})
            pieces.append(piece)
        return replace(record, pieces=tuple(pieces))


def fixed(
    signals: Mapping[str, Signal],
    reuse: int,
    *,
    voices: Mapping[str, Any] | None = None,
    views: Mapping[str, Any] | None = None,
) -> tuple[tuple[Note, ...], dict[str, Signal]]:
    """Signals as they were when a round was written: the steps that note them, and how they are read.

    A round that one optimiser step uses is trained on by the very weights that wrote it, so its signals are read in
    that step, without gradient, and nothing is noted; one that several use needs its notes.

    Args:
        signals: By the note's name.
        reuse: Optimiser steps that use a round.
        voices: Voices besides the model slots.
        views: What these voices see.
    """
    if reuse == 1:
        return (), {name: Still(signal) for name, signal in signals.items()}
    notes = tuple(Note(name, signal, voices=voices or {}, views=views or {}) for name, signal in signals.items())
    return notes, {name: Noted(name, signal.over or "tokens") for name, signal in signals.items()}


def values_of(
    signal: Signal,
    rows: Sequence[Record],
    ws: Workspace,
    voices: Mapping[str, Any] | None = None,
    views: Mapping[str, Any] | None = None,
) -> tuple[Tensor, str, Batch]:
    """A signal's values over some rows, without gradient: Float[U], the unit list they stand for, and the batch."""
    reader = reader_of(signal, ws)
    batch = Collate(reader.tokenizer, getattr(reader, "max_positions", None) or LONGEST, views or {})(rows)
    if hasattr(reader, "device"):
        batch = batch.to(reader.device)
    wants: dict[str, set[str]] = {}
    for read in signal.reads():
        wants.setdefault(read.who, set()).add(read.what)
    speakers: dict[str, Any] = {slot: Says(slot) for slot in ws.models} | dict(voices or {})
    with torch.no_grad():
        ctx = Context(batch, speakers, {w: frozenset(f) for w, f in wants.items()}, frozenset(), ws)
        over = signal.over or "tokens"
        return ctx(signal).expand(len(batch.units[over])).cpu(), over, batch


def reader_of(signal: Signal, ws: Workspace) -> Any:
    """The model whose tokenizer and template render the rows: the student, as in training, else one that is read.

    A teacher with another template must score the very tokens that the student will be trained on.
    """
    read = next((r.who for r in sorted(signal.reads(), key=repr) if r.who in ws.models), None)
    slots = ("student", read, *ws.models)
    return ws.models[next(slot for slot in slots if slot is not None and slot in ws.models)]


def _coupling(signal: Signal) -> Couples:
    return max([signal.couples, *(_coupling(c) for c in signal.children())])
