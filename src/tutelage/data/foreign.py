"""Foreign rows: a record's text re-encoded by another tokenizer, and the byte spans that both tokenisations share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch

from ..core.batch import Units
from ..core.errors import DataError
from ..core.record import Piece, Record
from ..models.agree import same_tokenizer
from ..models.spelling import spelling
from .render import Segment, render
from .spans import NOWHERE, Spans, align

CHUNKS = "chunks"


def chunks_of(view: str) -> str:
    """The name of the unit list of spans that the record's tokens share with those of a foreign view."""
    return f"{view}.{CHUNKS}"


def retold(record: Record, tokenizer: Any, author: str = "") -> Record:
    """The record without exact ids: what a model wrote becomes the text that its ids spell.

    Args:
        record: The record.
        tokenizer: The one that the exact ids belong to.
        author: Only what this author wrote; empty for every piece with ids.
    """
    if all(piece.ids is None for piece in record.pieces):
        return record
    return replace(record, pieces=tuple(_told(piece, tokenizer, author) for piece in record.pieces))


def _told(piece: Piece, tokenizer: Any, author: str) -> Piece:
    if piece.ids is None or author not in ("", piece.author):
        return piece
    spelled = spelling(tokenizer)
    content = piece.ids[:-1] if piece.stop == "eos" else piece.ids
    text = b"".join(spelled[i] for i in content).decode("utf-8", "replace")
    return replace(piece, content=text, ids=None, notes={})


@dataclass(frozen=True)
class Shared:
    """The spans of a whole record, before anything is cut.

    Args:
        segments: The record as the other tokenizer renders it.
        one: By trained token of the record, its span.
        other: By trained token of the foreign rendering, its span.
        places: By span, its place; spans that touch have neighbouring places.
    """

    segments: list[Segment]
    one: list[int]
    other: list[int]
    places: list[int]


def share(record: Record, segments: Sequence[Segment], own: Any, other: Any) -> Shared:
    """Align the trained pieces of a record, piece by piece; what ends an answer is one span of its own.

    Args:
        record: The record.
        segments: As ``own`` renders it.
        own: The record's tokenizer.
        other: The foreign one.

    An answer that a model wrote may be no text at all (half of a character): then nothing of it is shared.

    Raises:
        DataError: The record cannot be rendered by ``other``, or the two spell nothing of the data alike.
    """
    # ids that mean the same to both stay: read again as text they could be others
    foreign = render(record if same_tokenizer(own, other) else retold(record, own), other)
    tables = spelling(own), spelling(other)
    out = Shared(foreign, [], [], [])
    place, alike = 0, False
    for mine, theirs in zip(_trained(segments), _trained(foreign), strict=True):
        spans = _piece(mine, theirs, tables)
        first = len(out.places)
        out.one.extend(s if s < 0 else s + first for s in spans.one)
        out.other.extend(s if s < 0 else s + first for s in spans.other)
        out.places.extend(place + p for p in spans.places)
        place += max(spans.places, default=-1) + 2  # pieces do not touch
        alike |= len(spans.places) > (mine.num_end > 0 and theirs.num_end > 0)
    said = [any(len(s.ids) > s.num_end for s in _trained(some)) for some in (segments, foreign)]
    if all(said) and not alike and not any(p.trains and p.ids is not None for p in record.pieces):
        raise _nothing(record, segments, foreign, tables)
    return out


def _trained(segments: Sequence[Segment]) -> list[Segment]:
    return [s for s in segments if s.trains]


def _piece(mine: Segment, theirs: Segment, tables: tuple[Sequence[bytes], Sequence[bytes]]) -> Spans:
    contents = [s.ids[: len(s.ids) - s.num_end] for s in (mine, theirs)]
    spans = align(*([table[i] for i in ids] for table, ids in zip(tables, contents, strict=True)))
    both = mine.num_end > 0 and theirs.num_end > 0
    end = len(spans.places) if both else NOWHERE
    # an end that touches text without a span stands apart from the spans before it
    touches = bool(spans.one) and bool(spans.other) and NOWHERE not in (spans.one[-1], spans.other[-1])
    place = max(spans.places, default=-1) + (1 if touches else 2)
    return Spans(spans.one + [end] * mine.num_end, spans.other + [end] * theirs.num_end, spans.places + [place] * both)


def _nothing(record: Record, segments: Sequence[Segment], foreign: Sequence[Segment], tables: Any) -> DataError:
    shown = [
        b"".join(table[i] for s in _trained(some) for i in s.ids)[:40]
        for table, some in zip(tables, (segments, foreign), strict=True)
    ]
    return DataError(
        f"alignment of record {record.id!r}",
        got=f"{shown[0]!r} spelled by one tokenizer and {shown[1]!r} by the other",
        expected="bytes that both spell alike",
        remedy="A tokenizer that lower-cases, strips or replaces what it reads cannot be aligned: let the teacher "
        "write text instead (seqkd), or choose another teacher.",
    )


@dataclass(frozen=True)
class ForeignRow:
    """One record for a foreign tokenizer, cut to size.

    Args:
        ids: The token ids.
        at: By foreign unit, the position of the output that predicts it.
        target: The foreign units' token ids.
        own: By unit of the record, its span; ``NOWHERE`` for none.
        other: By foreign unit, its span.
        places: By span, its place.
    """

    ids: list[int]
    at: list[int]
    target: list[int]
    own: list[int]
    other: list[int]
    places: list[int]


def foreign_row(shared: Shared, kept: Sequence[Segment], own: range) -> ForeignRow:
    """What is left of the spans when both sides are cut: a span that lost a token, or its prediction, is none.

    Args:
        shared: The spans of the whole record.
        kept: The foreign segments, cut.
        own: The record's trained tokens that are units, as a range of all of them.
    """
    ids = [i for s in kept for i in s.ids]
    trained = [t for t, trains in enumerate(trains for s in kept for trains in [s.trains] * len(s.ids)) if trains]
    first = int(trained[:1] == [0])  # nothing predicts a first token
    lost = {s for n, s in enumerate(shared.one) if n not in own}
    lost |= {s for n, s in enumerate(shared.other) if not first <= n < len(trained)}
    numbers = count()
    number = {s: next(numbers) for s in range(len(shared.places)) if s not in lost}
    return ForeignRow(
        ids,
        [t - 1 for t in trained[first:]],
        [ids[t] for t in trained[first:]],
        [number.get(shared.one[n], NOWHERE) for n in own],
        [number.get(s, NOWHERE) for s in shared.other[first : len(trained)]],
        [shared.places[s] for s in number],
    )


def foreign_units(view: str, rows: Sequence[ForeignRow]) -> tuple[dict[str, Units], torch.Tensor]:
    """The foreign tokens and the spans as unit lists, and for the records' own tokens the span of each."""
    starts, total = [], 0
    for row in rows:
        starts.append(total)
        total += len(row.places)

    def moved(lists: Sequence[list[int]]) -> torch.Tensor:
        return _ints([h if h < 0 else h + s for some, s in zip(lists, starts, strict=True) for h in some])

    name = chunks_of(view)
    tokens = Units(
        _ints([r for r, row in enumerate(rows) for _ in row.target]),
        _ints([t for row in rows for t in range(len(row.target))]),
        _ints([i for row in rows for i in row.target]),
        {name: moved([row.other for row in rows])},
    )
    row_of = [r for r, row in enumerate(rows) for _ in row.places]
    spans = Units(_ints(row_of), _ints([p for row in rows for p in row.places]))
    return {view: tokens, name: spans}, moved([row.own for row in rows])


def _ints(values: Sequence[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.long)
