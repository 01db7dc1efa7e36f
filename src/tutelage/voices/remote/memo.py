"""Memo: answers that a server gave, kept in a file, so that what was paid for is never asked for again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import zlib
from pathlib import Path
from typing import Any

from ...core.errors import StoreError
from .identity import Identity


class Memo:
    """Answers by request; safe for several threads. Requests hold no key, so the file holds none.

    Args:
        file: Where they are kept; None keeps nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self.file, self._lock = file, threading.Lock()
        self._base: sqlite3.Connection | None = None
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(file, check_same_thread=False, timeout=60)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, answer BLOB)")
            self._base.execute("CREATE TABLE IF NOT EXISTS models (identity TEXT PRIMARY KEY)")
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
        return None if row is None else json.loads(zlib.decompress(row[0]))

    def put(self, request: str, answer: Any) -> None:
        """Keep an answer; it is on the disk when this returns."""
        if self._base is None:
            return
        data = zlib.compress(json.dumps(answer, separators=(",", ":")).encode(), 1)
        with self._lock:
            self._base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (request, data))
            self._base.commit()

    def __len__(self) -> int:
        if self._base is None:
            return 0
        with self._lock:
            return int(self._base.execute("SELECT COUNT(*) FROM answers").fetchone()[0])


def request_key(identity: str, path: str, body: Any) -> str:
    """The name of a request to one model."""
    text = json.dumps([identity, path, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
