"""Memo: answers that a server gave, kept in a file, so that what was paid for is never asked for again.

Compressed JSON; where it was asked for, log-probabilities of prompts are packed (``packed``), which needs the extra
``cache``.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
import threading
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

from ...core.errors import StoreError
from ...data.cached.code import MOST_CATEGORIES, Code, coder
from ...data.cached.coding import Coding
from . import packed
from .identity import Identity

MAGIC = b"TtA1"


class Memo:
    """Answers by request; safe for several threads. Requests hold no key, so the file holds none.

    Args:
        file: Where they are kept; None keeps nothing.
        rounded: Pack log-probabilities of prompts, which rounds all but those of the tokens that are there.
    """

    def __init__(self, file: Path | None, rounded: bool = False) -> None:
        self.rounded = rounded
        if rounded:
            coder()
        self.file, self._lock = file, threading.Lock()
        self._base: sqlite3.Connection | None = None
        self._codes: dict[str, Code] = {}
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(file, check_same_thread=False, timeout=60)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, answer BLOB)")
            self._base.execute("CREATE TABLE IF NOT EXISTS models (identity TEXT PRIMARY KEY)")
            self._base.execute("CREATE TABLE IF NOT EXISTS codes (name TEXT PRIMARY KEY, positions INTEGER, code BLOB)")
            self._base.commit()
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"kept answers {file}",
                got=str(error),
                expected="the file as a run wrote it",
                remedy="Delete it: what it held is asked for again.",
            ) from None

    def known(self, identity: Identity) -> Identity:
        """The model as it was first seen, if it is one whose answers are kept; else itself, from now on kept."""
        if self._base is None:
            return identity
        with self._lock:
            rows = self._base.execute("SELECT identity FROM models ORDER BY rowid").fetchall()
            before = [Identity.from_json(row[0]) for row in rows]
            same = next((one for one in before if not one.difference(identity)), None)
            if same is None:
                self._base.execute("INSERT OR IGNORE INTO models VALUES (?)", (identity.to_json(),))
                self._base.commit()
        return same or identity

    def get(self, request: str) -> Any:
        """The answer to a request, or None."""
        if self._base is None:
            return None
        with self._lock:
            row = self._base.execute("SELECT answer FROM answers WHERE request = ?", (request,)).fetchone()
            return None if row is None else self._read(row[0])

    def put(self, request: str, answer: Any) -> Any:
        """Keep an answer, on the disk when this returns; gives it as it will be read back."""
        if self._base is None:
            return answer
        with self._lock:
            data = self._written(answer)
            self._base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (request, data))
            self._base.commit()
            return self._read(data)

    def _written(self, answer: Any) -> bytes:
        numbers = packed.numbers_of(answer) if self.rounded else None
        if numbers is None:
            return zlib.compress(_json(answer), 1)
        code = self._coding.see([numbers], len(numbers["own"]))
        if code.name not in self._codes:
            self._keep(code)
        (choice,) = answer["choices"]
        rest = zlib.compress(_json({**answer, "choices": [{**choice, "prompt_logprobs": None}]}), 9)
        return MAGIC + bytes.fromhex(code.name) + struct.pack("<I", len(rest)) + rest + packed.pack(numbers, code)

    def _read(self, data: bytes) -> Any:
        if not data.startswith(MAGIC):
            return json.loads(zlib.decompress(data))
        name, (size,) = data[4:12].hex(), struct.unpack_from("<I", data, 12)
        answer = json.loads(zlib.decompress(data[16 : 16 + size]))
        answer["choices"][0]["prompt_logprobs"] = packed.unpack(data[16 + size :], self._code(name))
        return answer

    @cached_property
    def _coding(self) -> Coding:
        assert self._base is not None
        newest = self._base.execute("SELECT name FROM codes ORDER BY positions DESC, name LIMIT 1").fetchone()
        code = self._code(newest[0]) if newest else Code(MOST_CATEGORIES)
        return Coding(code, packed.put, *packed.FITTED)

    def _keep(self, code: Code) -> None:
        assert self._base is not None
        self._base.execute("INSERT OR IGNORE INTO codes VALUES (?, ?, ?)", (code.name, code.num_positions, code.data))
        self._codes[code.name] = code

    def _code(self, name: str) -> Code:
        if name not in self._codes:
            assert self._base is not None
            row = self._base.execute("SELECT code FROM codes WHERE name = ?", (name,)).fetchone()
            self._codes[name] = Code.read(row[0] if row else b"", f"kept answers {self.file}, code {name}")
        return self._codes[name]

    def __len__(self) -> int:
        if self._base is None:
            return 0
        with self._lock:
            return int(self._base.execute("SELECT COUNT(*) FROM answers").fetchone()[0])


def request_key(identity: str, path: str, body: Any) -> str:
    """The name of a request to one model."""
    text = json.dumps([identity, path, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
