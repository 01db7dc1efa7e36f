"""Rendering: the token ids of a record, piece by piece, exactly as a model sees them when it writes.

What a model did not write on its own (prompts, template text) is tokenised as whole stretches, like any server does.
What trains, and what came as exact ids, stands on its own: a boundary lies where generation starts and ends, so the
ids before a trained piece are the ids it was, or will be, generated from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.errors import DataError
from ..core.record import Piece, Record
from .template import Turn, layout

CONTEXT = -1


@dataclass(frozen=True)
class Segment:
    """A stretch of token ids.

    Args:
        ids: The token ids; may be empty.
        piece: The index of the piece they are, or ``CONTEXT`` for untrained pieces and template text.
        trains: True if each of them is a trained position.
        num_end: How many of its last ids end the answer instead of being content.
    """

    ids: tuple[int, ...]
    piece: int = CONTEXT
    trains: bool = False
    num_end: int = 0


def render(record: Record, tokenizer: Any) -> list[Segment]:
    """The record's segments in order; their ids joined are what the model reads.

    A chat record (roles system, user, assistant) goes through the tokenizer's template; neighbouring assistant pieces
    are the parts of one turn. A trained assistant turn without ``ids`` trains its content and its end-of-turn token,
    not the template text after that; template text after a last trained turn is left out, because generation never
    writes it. ``text`` pieces are written as they are, after the BOS that the tokenizer itself adds; a last trained one
    that follows untrained text gets EOS. An encoder's tokenizer frames the whole row instead (``[CLS]`` to ``[SEP]``).
    Pieces with ``ids`` are written as these ids. An answer that was cut where its writer had no room left
    (``stop="length"``) gets no end that its writer never wrote.

    Raises:
        DataError: The template is missing, refuses the record or rewrites earlier turns.
    """
    chat = [piece.role != "text" for piece in record.pieces]
    if any(chat) and not all(chat):
        raise DataError(
            f"record {record.id!r}",
            got="chat turns and plain text in one record",
            expected="either roles system, user and assistant, or role text",
            remedy="Give every piece a chat role, or write the whole record as text.",
        )
    return _chat(record, tokenizer) if any(chat) else _text(record, tokenizer)


def whole(record: Record, tokenizer: Any) -> Record:
    """The rendered record as one exact text in which every token trains, template text included.

    A model that is matched on content alone forgets the template around it, which each of its inputs begins with.
    """
    ids = [i for segment in render(record, tokenizer) for i in segment.ids]
    head, tail = frame(tokenizer)  # a text gets it back when it is rendered
    ids = ids[len(head) :] if head and tuple(ids[: len(head)]) == head else ids
    ids = ids[: -len(tail)] if tail and tuple(ids[-len(tail) :]) == tail else ids
    content = "".join(piece.content for piece in record.pieces)
    return replace(record, pieces=(Piece(content, trains=True, ids=tuple(ids)),))


def prompt_ids(record: Record, tokenizer: Any) -> list[int]:
    """What a model is given to write the first trained piece: all before it, generation prompt included.

    Equal, id for id, to what ``render`` puts before a piece with ``ids``, and before any other unless the template
    writes more in front of a finished turn than in front of one to be written.
    """
    prompt = record.without_answer()
    chat = any(piece.role != "text" for piece in prompt.pieces)
    answer = Piece("", "assistant" if chat else "text", trains=True, ids=())
    segments = render(replace(prompt, pieces=(*prompt.pieces, answer)), tokenizer)
    return [i for segment in segments for i in segment.ids]


def tokens(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The ids of a text on its own, no special tokens added."""
    # verbose=False: a text longer than the context is cut or refused later, with a better message
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else ()


def adds_bos(tokenizer: Any) -> bool:
    """True if the tokenizer itself puts BOS before a text."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return False
    with_special = tokenizer("a")["input_ids"]
    return bool(with_special) and with_special[0] == bos and tokens(tokenizer, "a")[:1] != (bos,)


def frame(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer itself puts before and after a text: BOS, or an encoder's ``[CLS]`` and ``[SEP]``."""
    first = getattr(tokenizer, "cls_token_id", None)
    if first is not None:
        bare, framed = tokens(tokenizer, "a"), tuple(tokenizer("a")["input_ids"])
        if framed[: 1 + len(bare)] == (first, *bare):
            return (first,), framed[1 + len(bare) :]
    return ((tokenizer.bos_token_id,) if adds_bos(tokenizer) else ()), ()


class _Writer:
    """Collects segments; text that stands on nothing of its own is joined before it is tokenised."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.segments: list[Segment] = []
        self._open = ""

    def text(self, text: str) -> None:
        self._open += text

    def close(self) -> None:
        if self._open:
            self.segments.append(Segment(tokens(self.tokenizer, self._open)))
            self._open = ""

    def own(self, ids: Sequence[int], index: int, trains: bool, num_end: int = 0) -> None:
        self.close()
        self.segments.append(Segment(tuple(ids), index, trains, num_end))


def is_own(piece: Piece) -> bool:
    """True if the piece's tokens stand on their own: it trains, or came as exact ids."""
    return piece.trains or piece.ids is not None


def _text(record: Record, tokenizer: Any) -> list[Segment]:
    writer = _Writer(tokenizer)
    head, tail = frame(tokenizer)
    if head:
        writer.own(head, CONTEXT, False)
    answers = any(not piece.trains for piece in record.pieces)
    last = len(record.pieces) - 1
    for index, piece in enumerate(record.pieces):
        if piece.ids is not None:
            writer.own(piece.ids, index, piece.trains, int(piece.stop == "eos"))
        elif piece.trains:
            eos = tokenizer.eos_token_id
            ends = index == last and answers and piece.stop != "length" and not tail
            end = (eos,) if ends and eos is not None else ()
            writer.own((*tokens(tokenizer, piece.content), *end), index, True, len(end))
        else:
            writer.text(piece.content)
    writer.close()
    if tail:
        writer.own(tail, CONTEXT, False)
    return writer.segments


def _chat(record: Record, tokenizer: Any) -> list[Segment]:
    writer = _Writer(tokenizer)
    turns = _turns(record)
    last = record.pieces[-1]
    for turn, place in zip(turns, layout(record.id, turns, tokenizer), strict=True):
        writer.text(place.before)
        for number, (index, content) in enumerate(zip(turn.indices, place.contents, strict=True)):
            piece = record.pieces[index]
            ends = number == len(turn.indices) - 1
            if piece.ids is not None:
                writer.own(piece.ids, index, piece.trains, int(piece.stop == "eos"))
            elif piece.trains:
                end = tokens(tokenizer, place.end) if ends and piece.stop != "length" else ()
                writer.own((*tokens(tokenizer, content), *end), index, True, len(end))
            else:
                writer.text(content)
            if ends:
                cut = piece.stop == "length" and piece is not last
                writer.text(place.end if piece.ids is None and piece.trains and cut else "")
                writer.text(_after(piece, place.end, place.after, tokenizer))
    writer.close()
    return writer.segments


def _after(piece: Piece, end: str, after: str, tokenizer: Any) -> str:
    """What the template still has to write after a turn: its end token only if the piece did not hold it."""
    if piece.ids is None:
        return after if piece.trains else end + after
    written = tokens(tokenizer, end)
    held = bool(written) and piece.ids[-1:] == written[-1:]
    return after if held else end + after


def _turns(record: Record) -> list[Turn]:
    turns: list[Turn] = []
    for index, piece in enumerate(record.pieces):
        joins = bool(turns) and piece.role == "assistant" == turns[-1].role
        before = turns.pop() if joins else Turn(piece.role, (), (), (), ())
        turns.append(
            Turn(
                piece.role,
                (*before.indices, index),
                (*before.contents, piece.content),
                (*before.own, is_own(piece)),
                (*before.exact, piece.ids is not None),
            )
        )
    return turns
