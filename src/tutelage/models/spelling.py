"""Spelling: the bytes that each token id stands for, however a tokenizer writes its tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from .tokens import vocabulary

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
MARK = "\u2581"  # what SentencePiece writes for a space


def spelling(tokenizer: Any) -> tuple[bytes, ...]:
    """The bytes of each id; ids without a token are empty.

    Byte-level BPE is undone by its table, SentencePiece by its space mark and its ``<0x..>`` bytes; added tokens
    (special ones too) are their literal text, as a text that contains it is read so. Worked out once a tokenizer.
    """
    return _spelling(tokenizer)


def opens(tokenizer: Any) -> tuple[bool, ...]:
    """By id, whether a token can only begin a new word: it starts with white space, or is a special token."""
    special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special} | set(tokenizer.all_special_ids)
    return tuple(i in special or token[:1].isspace() for i, token in enumerate(spelling(tokenizer)))


def falls_back(tokenizer: Any) -> tuple[bool, ...]:
    """By id, whether a token stands for one byte of text that no other token spells (``<0x41>``)."""
    return tuple(BYTE.fullmatch(token) is not None for token in vocabulary(tokenizer))


@lru_cache(maxsize=16)
def _spelling(tokenizer: Any) -> tuple[bytes, ...]:
    undo, written = _undo(tokenizer), _piece if _marks(tokenizer) else str.encode
    added = {i: written(str(token)) for i, token in tokenizer.added_tokens_decoder.items()}
    return tuple(added[i] if i in added else undo(token) for i, token in enumerate(vocabulary(tokenizer)))


def _undo(tokenizer: Any) -> Callable[[str], bytes]:
    if '"ByteLevel"' in _steps(tokenizer):
        table = {symbol: byte for byte, symbol in enumerate(_symbols())}
        return lambda token: bytes(table[c] for c in token) if all(c in table for c in token) else token.encode()
    return _piece if _marks(tokenizer) else str.encode


def _marks(tokenizer: Any) -> bool:
    """Whether it writes as SentencePiece does; a tokenizer without a backend of its own is SentencePiece's."""
    steps = _steps(tokenizer)
    return not steps or any(sign in steps for sign in (MARK, '"Metaspace"', '"ByteFallback"'))


def _steps(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    whole = json.loads(backend.to_str())
    return json.dumps([whole[part] for part in ("normalizer", "pre_tokenizer", "decoder")], ensure_ascii=False)


def _piece(token: str) -> bytes:
    byte = BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(MARK, " ").encode()


def _symbols() -> list[str]:
    """The character that byte-level BPE writes for each byte: printable ones stand for themselves."""
    plain = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]
