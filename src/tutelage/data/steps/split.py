"""Split: cut an answer into named parts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...core.errors import DataError, SettingError
from ...core.record import Piece, Record
from ...core.workspace import Workspace


@dataclass(frozen=True)
class Split:
    """Cuts each trained piece that the pattern matches into the parts that its named groups span.

    Text outside the groups keeps the piece's part name. Exact ids stay exact: each token goes, whole and with its
    notes, to the part in which its text begins, and the stop token to the last; so the ids joined are what they were.
    A piece that does not match stays as it is.

    Args:
        pattern: A regular expression, searched with ``.`` matching line ends; its named groups are the parts.
    """

    pattern: str
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        try:
            compiled = re.compile(self.pattern, re.DOTALL)
        except re.error as error:
            raise SettingError(
                "Split.pattern", got=f"{self.pattern!r} ({error})", expected="a regular expression", remedy="Mend it."
            ) from error
        if not compiled.groupindex:
            raise SettingError(
                "Split.pattern",
                got=f"{self.pattern!r}, without named groups",
                expected="groups such as (?P<thinking>.*?)",
                remedy="Name the parts.",
            )

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows with their answers in parts."""
        for record in records:
            pieces = [part for piece in record.pieces for part in self._split(record, piece, ws)]
            yield replace(record, pieces=tuple(pieces))

    def _split(self, record: Record, piece: Piece, ws: Workspace) -> list[Piece]:
        match = re.search(self.pattern, piece.content, re.DOTALL) if piece.trains else None
        if match is None:
            return [piece]
        named = [(*match.span(name), name) for name in match.re.groupindex if match.span(name) != (-1, -1)]
        spans = _spans(sorted(named), piece, record)
        if piece.ids is None:
            return [replace(piece, content=piece.content[a:b], part=name) for a, b, name in spans]
        tokenizer = ws.models[piece.author].tokenizer
        return _cut_tokens(piece, spans, tokenizer)


def _spans(named: Sequence[tuple[int, int, str]], piece: Piece, record: Record) -> list[tuple[int, int, str]]:
    """Spans that cover the whole content, gaps under the piece's own part name; empty ones left out."""
    out: list[tuple[int, int, str]] = []
    end = 0
    for start, stop, name in named:
        if start < end:
            raise DataError(
                f"record {record.id!r}",
                got=f"part {name!r} inside another",
                expected="parts one after another",
                remedy="Name only groups of the pattern that do not hold each other.",
            )
        out += [(end, start, piece.part), (start, stop, name)]
        end = stop
    out.append((end, len(piece.content), piece.part))
    return [span for span in out if span[0] < span[1]] or [(0, 0, piece.part)]


def _cut_tokens(piece: Piece, spans: Sequence[tuple[int, int, str]], tokenizer: Any) -> list[Piece]:
    ids = piece.ids or ()
    edges = [0, *(_token_at(start, ids, tokenizer) for start, _, _ in spans[1:]), len(ids)]
    texts = [0, *(_length(ids[:edge], tokenizer) for edge in edges[1:-1]), len(piece.content)]
    parts = []
    for number, (_, _, name) in enumerate(spans):
        where = slice(edges[number], edges[number + 1])
        if where.start == where.stop:
            continue
        notes = {key: values[where] for key, values in piece.notes.items()}
        content = piece.content[texts[number] : texts[number + 1]]
        stop = piece.stop if where.stop == len(ids) else ""
        parts.append(replace(piece, content=content, part=name, ids=ids[where], notes=notes, stop=stop))
    return parts or [piece]


def _token_at(char: int, ids: Sequence[int], tokenizer: Any) -> int:
    """The first token whose text begins at a character or later."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if _length(ids[:middle], tokenizer) >= char:
            high = middle
        else:
            low = middle + 1
    return low


def _length(ids: Sequence[int], tokenizer: Any) -> int:
    # an unfinished character at the end decodes to a replacement mark and belongs to the token that began it
    return len(tokenizer.decode(list(ids), skip_special_tokens=True))
