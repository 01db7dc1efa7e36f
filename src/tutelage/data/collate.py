"""Collate: the one place that shifts, pads, packs, masks and aligns.

A trained token at position t is predicted by the output at position t - 1; ``View.at`` points there. Which tokens train
comes from the segments, never from comparing ids, so EOS trains where pad and EOS are one id. Views align by piece:
the trained pieces are the same ids in the same order in each, whatever stands between them. A foreign view is the same
text in another tokenizer's ids; it aligns by the bytes of the trained pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.batch import Batch, Units, View
from ..core.errors import DataError, SettingError
from ..core.record import Record
from .foreign import ForeignRow, chunks_of, foreign_row, foreign_units, share
from .grid import pack_rows, pad_rows
from .render import Segment, render

Sees = Callable[[Record], Record]


@dataclass(frozen=True)
class Cut:
    """What truncation left out of some records."""

    num_rows: int = 0
    num_tokens: int = 0


@dataclass(frozen=True)
class Row:
    """One record in all views, cut to size.

    Args:
        record: The record.
        ids: The token ids by view.
        at: By view, the position of the output that predicts each unit.
        target: The unit's token ids.
        notes: Numbers by name, one a unit.
        num_cut: Trained tokens that were cut.
        turn: For each unit, the turn of the record that it is in, from 0.
        foreign: The record in other tokenizers' ids, by view.
    """

    record: Record
    ids: Mapping[str, list[int]]
    at: Mapping[str, list[int]]
    target: list[int]
    notes: Mapping[str, list[float]]
    num_cut: int
    turn: list[int]
    foreign: Mapping[str, ForeignRow] = field(default_factory=dict)


@dataclass(frozen=True)
class Collate:
    """Records to a batch.

    A row longer than ``max_length`` in any view keeps its prompt and loses the end of its answer, the same tokens in
    every view. A trained token that nothing precedes is not a unit. A batch without units is legal. The units ``turns``
    are the runs of trained tokens that nothing untrained parts, and ``tokens`` are part of them.

    Args:
        tokenizer: Renders; its pad id (else EOS, else 0) fills the grid.
        max_length: The longest row, in tokens.
        views: What each voice sees, by name; ``main`` is the record itself.
        padding: The side; no value depends on it.
        pack: Put several rows in one grid row, kept apart by a block-diagonal mask; units stay the same.
        foreign: By the name of a further view, the tokenizer whose ids it holds. Its trained positions are the units
            ``NAME``; the byte spans that they share with ``tokens`` are the units ``NAME.chunks``.
    """

    tokenizer: Any
    max_length: int
    views: Mapping[str, Sees] = field(default_factory=dict)
    padding: Literal["right", "left"] = "right"
    pack: bool = False
    foreign: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken = {"main", "tokens", "turns", "rows", "real"}
        wrong = {
            "max_length": self.max_length < 2,
            "padding": self.padding not in ("right", "left"),
            "views": "main" in self.views,
            "foreign": bool(set(self.foreign) & (taken | set(self.views))),
        }
        for name in (n for n, is_wrong in wrong.items() if is_wrong):
            raise SettingError(
                f"Collate.{name}",
                got=repr(getattr(self, name)),
                expected={
                    "max_length": "at least 2",
                    "padding": "right or left",
                    "views": "no view named main",
                    "foreign": "names that no view and no unit list has",
                }[name],
                remedy="Change this setting.",
            )

    def __call__(self, records: Sequence[Record]) -> Batch:
        """One batch of all the records, in their order.

        Raises:
            DataError: A prompt that does not fit, views that do not align, notes of another length, no records.
        """
        if not records:
            raise DataError("collate", got="no records", expected="at least one", remedy="Give it a row.")
        rows = [self.row(record) for record in records]
        views = {name: self._view(rows, name) for name in ("main", *self.views)}
        more, homes = self._foreign(rows, views)
        counts = [len(row.target) for row in rows]
        tokens = Units(
            _ints([r for r, count in enumerate(counts) for _ in range(count)]),
            _ints([t for count in counts for t in range(count)]),
            _ints([i for row in rows for i in row.target]),
            homes,
        )
        turns, homes["turns"] = _turns(rows)
        everyone = Units(torch.arange(len(rows)), torch.zeros(len(rows), dtype=torch.long))
        units = {"tokens": tokens, "turns": turns, "rows": everyone, "real": _real(rows), **more}
        return Batch(tuple(records), units, views, _notes(rows), _groups(records))

    def fit(self, record: Record) -> tuple[dict[str, list[Segment]], int]:
        """The segments by view, cut to ``max_length``, and how many trained tokens that cost."""
        return self._cut(record, self._whole(record))

    def _whole(self, record: Record) -> dict[str, list[Segment]]:
        seen = {"main": record, **{name: sees(record) for name, sees in self.views.items()}}
        whole = {name: render(view, self.tokenizer) for name, view in seen.items()}
        _same_answers(record, whole)
        return whole

    def _cut(self, record: Record, whole: Mapping[str, list[Segment]]) -> tuple[dict[str, list[Segment]], int]:
        num_trained = _num_trained(whole["main"])
        kept = min(self._room(record, name, segments) for name, segments in whole.items())
        return {name: _keep(segments, kept, self.max_length) for name, segments in whole.items()}, num_trained - kept

    def report(self, records: Sequence[Record]) -> Cut:
        """What truncation leaves out of these records."""
        cuts = [self.fit(record)[1] for record in records]
        return Cut(sum(cut > 0 for cut in cuts), sum(cuts))

    def row(self, record: Record) -> Row:
        """One record, cut to size, its units found in each view."""
        whole = self._whole(record)
        views, num_cut = self._cut(record, whole)
        ids = {name: [i for s in segments for i in s.ids] for name, segments in views.items()}
        trained = {name: _trained_positions(segments) for name, segments in views.items()}
        # nothing predicts a first token; one that is first in any view is a unit in none
        first = int(any(positions[:1] == [0] for positions in trained.values()))
        at = {name: [t - 1 for t in positions[first:]] for name, positions in trained.items()}
        target = [ids["main"][t] for t in trained["main"][first:]]
        if not all(ids.values()):
            raise _no_tokens(record)
        notes = {k: v[first:] for k, v in _token_notes(record, views["main"], num_cut).items()}
        own = range(first, first + len(target))
        turn = _turn_of(views["main"])[first:]
        foreign = {name: self._elsewhere(record, whole["main"], name, own) for name in self.foreign}
        return Row(record, ids, at, target, notes, num_cut, turn, foreign)

    def _elsewhere(self, record: Record, segments: Sequence[Segment], name: str, own: range) -> ForeignRow:
        shared = share(record, segments, self.tokenizer, self.foreign[name])
        kept = _keep(shared.segments, self._room(record, name, shared.segments), self.max_length)
        row = foreign_row(shared, kept, own)
        if not row.ids:
            raise _no_tokens(record)
        return row

    def _foreign(self, rows: Sequence[Row], views: dict[str, View]) -> tuple[dict[str, Units], dict[str, Tensor]]:
        """Adds the foreign views; returns their unit lists, and for ``tokens`` the spans they are part of."""
        units: dict[str, Units] = {}
        homes: dict[str, Tensor] = {}
        for name, tokenizer in self.foreign.items():
            some = [row.foreign[name] for row in rows]
            names = [row.record.id for row in rows]
            views[name] = self._laid_out([r.ids for r in some], [r.at for r in some], names, tokenizer)
            found, homes[chunks_of(name)] = foreign_units(name, some)
            units |= found
        return units, homes

    def _room(self, record: Record, name: str, segments: Sequence[Segment]) -> int:
        """How many trained tokens fit."""
        positions = _trained_positions(segments)
        length = sum(len(s.ids) for s in segments)
        prompt = positions[0] if positions else length
        if prompt > self.max_length or (positions and prompt == self.max_length):
            raise DataError(
                f"record {record.id!r}" + (f" in view {name!r}" if name != "main" else ""),
                got=f"a prompt of {prompt} tokens",
                expected=f"fewer than max_length={self.max_length}, so that an answer fits",
                remedy="Raise max_length, or drop such records with a Keep step.",
            )
        return sum(t < self.max_length for t in positions)

    def _view(self, rows: Sequence[Row], name: str) -> View:
        names = [row.record.id for row in rows]
        return self._laid_out([r.ids[name] for r in rows], [r.at[name] for r in rows], names, self.tokenizer)

    def _laid_out(self, ids: list[list[int]], at: list[list[int]], names: list[str], tokenizer: Any) -> View:
        if self.pack:
            inputs, start = pack_rows(ids, names, self.max_length, _pad_id(tokenizer))
        else:
            inputs, start = pad_rows(ids, self.padding, _pad_id(tokenizer))
        real = _ints([s + t for s, some in zip(start, ids, strict=True) for t in range(len(some))])
        row = _ints([r for r, some in enumerate(ids) for _ in some])
        return View(inputs, _ints([s + t for s, some in zip(start, at, strict=True) for t in some]), real, row)


def split(records: Sequence[Record], size: int) -> list[list[Record]]:
    """Micro-batches of at most ``size`` rows that keep groups whole; a larger group is one of its own.

    Groups come in the order of their first rows.
    """
    if size < 1:
        raise SettingError("split", got=f"size={size}", expected="at least 1", remedy="Give the rows of a micro-batch.")
    out: list[list[Record]] = []
    for group in by_group(records):
        if out and len(out[-1]) + len(group) <= size:
            out[-1].extend(group)
        else:
            out.append(list(group))
    return out


def by_group(records: Sequence[Record]) -> list[list[Record]]:
    """The groups in the order of their first rows; a record without a group is one of its own."""
    groups: dict[object, list[Record]] = {}
    for number, record in enumerate(records):
        groups.setdefault(record.group or number, []).append(record)
    return list(groups.values())


def _same_answers(record: Record, views: Mapping[str, Sequence[Segment]]) -> None:
    main = [s.ids for s in views["main"] if s.trains]
    for name, segments in views.items():
        other = [s.ids for s in segments if s.trains]
        if other != main:
            raise DataError(
                f"record {record.id!r} in view {name!r}",
                got=f"trained pieces of {[len(ids) for ids in other]} tokens",
                expected=f"the same trained pieces as in the record itself, of {[len(ids) for ids in main]} tokens",
                remedy="A view may change, add or drop only pieces that do not train.",
            )


def _real(rows: Sequence[Row]) -> Units:
    """Every token of the records themselves, special and template ones included."""
    lengths = [len(row.ids["main"]) for row in rows]
    row = _ints([r for r, length in enumerate(lengths) for _ in range(length)])
    return Units(row, _ints([t for length in lengths for t in range(length)]))


def _turn_of(segments: Sequence[Segment]) -> list[int]:
    """The turn of each trained token: a new one starts where something untrained stands between."""
    out: list[int] = []
    turn, parted = -1, True
    for segment in segments:
        if segment.trains and segment.ids:
            turn, parted = turn + parted, False
            out += [turn] * len(segment.ids)
        else:
            parted = parted or bool(segment.ids)
    return out


def _turns(rows: Sequence[Row]) -> tuple[Units, Tensor]:
    """The turns of all rows, and for each token the one that it is part of."""
    found = [list(dict.fromkeys(row.turn)) for row in rows]
    number = {(r, t): n for n, (r, t) in enumerate((r, t) for r, some in enumerate(found) for t in some)}
    place = _ints([p for some in found for p in range(len(some))])
    home = _ints([number[r, t] for r, row in enumerate(rows) for t in row.turn])
    return Units(_ints([r for r, _ in number]), place), home


def _pad_id(tokenizer: Any) -> int:
    return next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)


def _no_tokens(record: Record) -> DataError:
    return DataError(
        f"record {record.id!r}", got="no tokens", expected="at least one token", remedy="Drop empty records."
    )


def _num_trained(segments: Sequence[Segment]) -> int:
    return sum(len(s.ids) for s in segments if s.trains)


def _trained_positions(segments: Sequence[Segment]) -> list[int]:
    flags = [s.trains for s in segments for _ in s.ids]
    return [t for t, trains in enumerate(flags) if trains]


def _keep(segments: Sequence[Segment], num_trained: int, max_length: int) -> list[Segment]:
    """Everything up to and with that many trained tokens; what follows only if nothing was cut and it fits."""
    out: list[Segment] = []
    left, room = num_trained, max_length
    whole = _num_trained(segments) == num_trained
    for segment in segments:
        if segment.trains:
            ids = segment.ids[:left]
            left -= len(ids)
        else:
            ids = segment.ids[:room] if left or whole else ()
        room -= len(ids)
        out.append(Segment(ids, segment.piece, segment.trains))
    return out


def _token_notes(record: Record, segments: Sequence[Segment], num_cut: int) -> dict[str, list[float]]:
    """Notes of the trained pieces by name, nan where a piece has none."""
    pieces = record.pieces
    names = dict.fromkeys(n for s in segments if s.trains for n in pieces[s.piece].notes)
    out: dict[str, list[float]] = {name: [] for name in names}
    for segment in (s for s in segments if s.trains):
        piece = pieces[segment.piece]
        for name in names:
            values = piece.notes.get(name)
            length = len(segment.ids if piece.ids is None else piece.ids)
            # the uncut length of a piece without ids is not known here: then only too few are surely wrong
            fits = values is None or len(values) == length or (len(values) > length and piece.ids is None and num_cut)
            if not fits:
                raise DataError(
                    f"note {name!r} of piece {segment.piece} of record {record.id!r}",
                    got=f"{len(values or ())} numbers",
                    expected=f"one a token: {length}",
                    remedy="Write the note again for this tokenizer.",
                )
            out[name] += [math.nan] * len(segment.ids) if values is None else values[: len(segment.ids)]
    return out


def _notes(rows: Sequence[Row]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name in dict.fromkeys(n for row in rows for n in row.notes):
        values = [row.notes.get(name, [math.nan] * len(row.target)) for row in rows]
        out[f"tokens.{name}"] = _floats([v for some in values for v in some])
    for name in dict.fromkeys(n for row in rows for n in row.record.notes):
        out[f"rows.{name}"] = _floats([float(row.record.notes.get(name, math.nan)) for row in rows])
    return out


def _groups(records: Sequence[Record]) -> Tensor:
    numbers: dict[object, int] = {}
    return _ints([numbers.setdefault(r.group or place, len(numbers)) for place, r in enumerate(records)])


def _ints(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def _floats(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)
