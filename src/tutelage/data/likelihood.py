"""Likelihood: how probable a model finds the spans of a text that it need not have written.

The text is that of a record's trained pieces. Each model reads it behind its own rendering of the prompt, in its own
tokens; those that a model wrote are never tokenised again for a model with the same tokenizer. What ends an answer is
no part of the text, and neither is the prompt.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..core.record import Piece, Record
from ..core.scores import Scores
from ..core.workspace import Workspace
from ..models.agree import same_tokens
from ..models.causal import Causal, resting
from ..models.spelling import spelling
from .collate import Collate
from .foreign import retold
from .render import render
from .sentences import Span

LONGEST = 1 << 20
CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Reading:
    """A text as a model reads it: for each of its tokens where it begins, in characters, and its log-probability.

    Args:
        starts: Never falling; a token that begins inside a character has that character's place.
        nats: ``log p(token | prompt, the tokens before it)``, float64; a first token that nothing predicts is left out.
        end: Where the reading stops: the length of the text, or less if it did not fit the model's context.
    """

    starts: tuple[int, ...]
    nats: tuple[float, ...]
    end: int

    def means(self, spans: Sequence[Span]) -> Tensor:
        """The geometric mean of the probabilities of the tokens that begin in each span: Float64[J], nan if none do."""
        sums, counts = [0.0] * len(spans), [0] * len(spans)
        number = 0
        for start, nats in zip(self.starts, self.nats, strict=True):
            while number < len(spans) and start >= spans[number][1]:
                number += 1
            if number < len(spans) and start >= spans[number][0]:
                sums[number] += nats
                counts[number] += 1
        each = [math.exp(total / count) if count else math.nan for total, count in zip(sums, counts, strict=True)]
        return torch.tensor(each, dtype=torch.float64)


def trained_text(record: Record) -> str:
    """The contents of the trained pieces, joined."""
    return "".join(piece.content for piece in record.trained())


def as_text(record: Record, ws: Workspace) -> Record:
    """The record with what models wrote as the text that their ids spell."""
    return _retold(record, ws, None)


def read(slot: str, records: Sequence[Record], ws: Workspace, batch_size: int = 8) -> list[Reading]:
    """How the model of a slot reads each record's trained text, with its tokenizer and its template; no gradient.

    Args:
        slot: The model slot; the ledger is charged for it.
        records: Rows; their text is that of ``as_text``.
        ws: Holds the models.
        batch_size: Rows a forward pass; memory only.

    Raises:
        DataError: A prompt leaves no room in the model's context, or its template refuses the record.
    """
    model = ws.models[slot]
    room = min(getattr(model, "max_positions", None) or LONGEST, LONGEST)
    collate, out = Collate(model.tokenizer, room), []
    for start in range(0, len(records), batch_size):
        rows = [_retold(record, ws, model) for record in records[start : start + batch_size]]
        batch, began = collate(rows), perf_counter()
        view = batch.views["main"].to(model.device)
        with torch.no_grad(), resting(model.model) if isinstance(model, Causal) else nullcontext():
            scores = model.predict(view, frozenset({"next"}))["next"]
            nats = _of_targets(scores, batch.units["tokens"].target)  # type: ignore[arg-type]
        num_tokens = int(view.inputs["input_ids"].numel())
        ws.ledger.add(slot, "predict", calls=len(rows), tokens=num_tokens, seconds=perf_counter() - began)
        row_of = batch.units["tokens"].row
        for number, row in enumerate(rows):
            text = [piece.content for piece in as_text(records[start + number], ws).trained()]
            out.append(_reading(row, model.tokenizer, text, nats[row_of == number].tolist()))
    return out


def joined(spans: Sequence[Span], readings: Sequence[Reading]) -> list[Span]:
    """The spans that every reading has read to their end; one without a token of a model joins the one before it.

    Args:
        spans: They tile the text.
        readings: Of the same text.
    """
    end = min(reading.end for reading in readings)
    reached = [span for span in spans if span[1] <= end]
    bare = torch.stack([reading.means(reached).isnan() for reading in readings], 1).tolist()
    out: list[Span] = []
    wanting = [True] * len(readings)  # readings without a token in the last span of ``out``
    for span, own in zip(reached, bare, strict=True):
        if out and (any(own) or any(wanting)):
            out[-1] = (out[-1][0], span[1])
            wanting = [a and b for a, b in zip(wanting, own, strict=True)]
        else:
            out.append(span)
            wanting = own
    return [] if any(wanting) else out


def _retold(record: Record, ws: Workspace, reader: Any) -> Record:
    """The record with the ids of other tokenizers than the reader's as text; with those of all if there is no reader.

    Ids whose author has no slot are the student's, whose tokenizer is the run's.
    """
    if all(piece.ids is None for piece in record.pieces):
        return record
    return replace(record, pieces=tuple(_piece(record, piece, ws, reader) for piece in record.pieces))


def _piece(record: Record, piece: Piece, ws: Workspace, reader: Any) -> Piece:
    if piece.ids is None:
        return piece
    slots = (piece.author, "student", *ws.models)
    author = ws.models[next(slot for slot in slots if slot in ws.models)]
    if reader is not None and (author is reader or same_tokens(author, reader)):
        return piece
    return retold(replace(record, pieces=(piece,)), author.tokenizer).pieces[0]


def _of_targets(scores: Scores, target: Tensor) -> Tensor:
    """Float64[U], a chunk of units at a time."""
    step = max(1, CHUNK_ELEMENTS // scores.num_categories)
    said = [torch.zeros(0, dtype=torch.float64)]
    for start in range(0, len(target), step):
        rows = slice(start, min(start + step, len(target)))
        log_probs = scores.at(rows)
        said.append(log_probs.gather(-1, target[rows, None].to(log_probs.device)).squeeze(-1).double().cpu())
    return torch.cat(said)


def _reading(record: Record, tokenizer: Any, texts: Sequence[str], nats: Sequence[float]) -> Reading:
    segments = render(record, tokenizer)
    flags = [segment.trains for segment in segments for _ in segment.ids]
    first = int(flags[:1] == [True])  # nothing predicts a first token
    places = [place for segment in _places(segments, tokenizer, texts) for place in segment][first:]
    heard = [(p, n) for p, n in zip(places, nats, strict=False) if p is not None]
    lost = [p for p in places[len(nats) :] if p is not None]
    starts = tuple(p for p, _ in heard)
    return Reading(starts, tuple(n for _, n in heard), lost[0] if lost else sum(map(len, texts)))


def _places(segments: Sequence[Any], tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int | None]]:
    """Where each trained token begins in the joined texts; None for what ends an answer."""
    table, before = spelling(tokenizer), 0
    for segment, text in zip((s for s in segments if s.trains), texts, strict=True):
        content = segment.ids[: len(segment.ids) - segment.num_end]
        starts, spelled = _spelled([table[i] for i in content])
        yield [before + place for place in _moved(starts, spelled, text)] + [None] * segment.num_end
        before += len(text)


def _spelled(tokens: Sequence[bytes]) -> tuple[list[int], str]:
    """Where each token begins in the text that they spell, and that text; broken characters count as one each."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    parts = [decode(token) for token in tokens]
    return [0, *accumulate(map(len, parts))][: len(parts)], "".join(parts) + decode(b"", final=True)


def _moved(starts: Sequence[int], spelled: str, text: str) -> list[int]:
    """Places in a spelled text as places in the text itself.

    A tokenizer may put a space in front and a template may strip; where a tokenizer rewrites the text, what differs
    stands where the difference begins.
    """
    if text in spelled:
        shift = spelled.find(text)
        return [min(max(0, s - shift), len(text)) for s in starts]
    if spelled in text:
        return [s + text.find(spelled) for s in starts]
    shorter = min(len(spelled), len(text))
    front = next((i for i in range(shorter) if spelled[i] != text[i]), shorter)
    back = next((i for i in range(shorter - front) if spelled[-1 - i] != text[-1 - i]), shorter - front)
    behind, shift = len(spelled) - back, len(text) - len(spelled)
    return [s if s <= front else s + shift if s >= behind else front for s in starts]
