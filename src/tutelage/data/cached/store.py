"""A teacher cache: what one teacher said, found by the tokens that it was asked about."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import StoreError
from ...core.scores import Head
from ..files import write_whole
from ..hashing import hash_bytes, model_hashes
from ..manifest import open_manifest, read_manifest
from . import head as heads
from .code import Code
from .coding import Coding
from .form import Fields, Form
from .forms import form_of
from .log import Entry, Log, Place

Ints = NDArray[np.int64]

FRONT = struct.Struct("<IIII8s")  # first position, tokens, bytes of tokens, runs, code
MOST_LOOKED_AT = 64
REPORT = "report.json"


@dataclass(frozen=True, eq=False)
class Asked:
    """A row of tokens and the positions that are asked about.

    Args:
        tokens: Int[n], from the row's first token to the last that is predicted.
        places: Int[T], rising: position t asks what comes after ``tokens[:t]``; at least 1.
    """

    tokens: Ints
    places: Ints

    @cached_property
    def prefix(self) -> int:
        """A hash of what comes before the first position."""
        return _digest(self.tokens[: self.places[0]])

    @cached_property
    def whole(self) -> int:
        """A hash of all of it."""
        return _digest(self.tokens, self.places)

    @property
    def targets(self) -> Ints:
        """The tokens that are there."""
        return self.tokens[self.places]


class Cache:
    """What one teacher said, in one form.

    Args:
        folder: A folder of its own.
        key: Content hashes of the teacher's weights and tokenizer; see ``teacher_key``.
        form: What is held of a position.

    Raises:
        StoreError: The folder holds a cache by another teacher, tokenizer or form, or something else.
    """

    def __init__(self, folder: Path | str, key: Mapping[str, str], form: Form) -> None:
        self.folder, self.form, self.key = Path(folder), form, dict(key)
        open_manifest(self.folder, key, form.facts())
        self.log = Log(self.folder)
        self._codes: dict[str, Code] = {}
        self._coding: Coding | None = None
        self._new: dict[int, list[Place]] = {}
        self._known = _Index(self.log)

    def __len__(self) -> int:
        return sum(len(s.entries) for s in self.log.shards)

    @property
    def num_bytes(self) -> int:
        """All that the folder takes on the disk."""
        return sum(p.stat().st_size for p in self.folder.iterdir() if p.is_file())

    @cached_property
    def head(self) -> Head:
        """The teacher's head, for a cache of states.

        Raises:
            StoreError: It is missing or damaged.
        """
        return heads.read(self.folder)

    def find(self, row: Asked) -> Fields | None:
        """What was stored of all the row's positions, or None."""
        for place in (*self._new.get(row.whole, ()), *self._known.whole(row.whole)):
            found = self._read(place, row)
            if found is not None:
                return found
        some = (*self._new.get(row.prefix, ()), *self._known.prefix(row.prefix))
        for place in some[:MOST_LOOKED_AT]:
            found = self._read(place, row)
            if found is not None:
                return found
        return None

    def add(self, rows: Sequence[tuple[Asked, Fields]]) -> list[Fields]:
        """Store rows; returns them as they will be read back.

        Raises:
            StoreError: The disk refuses; what was there is still there.
        """
        if not rows:
            return []
        code = self._fit(rows)
        out, entries = [], []
        for asked, fields in rows:
            data = self.form.data(fields, asked.targets, code)
            out.append({**self.form.fields(data, asked.targets, code), "targets": asked.targets})
            body = self._front(asked, code) + data
            entries.append(Entry(asked.whole, asked.prefix, len(asked.places), body))
        for (asked, _), place in zip(rows, self.log.write(entries), strict=True):
            for key in (asked.whole, asked.prefix):
                self._new.setdefault(key, []).append(place)
        return out

    def report(self, **more: Any) -> dict[str, Any]:
        """What the folder holds, and what was said of it before; ``more`` is kept with it."""
        path = self.folder / REPORT
        kept = json.loads(path.read_text()) if path.exists() else {}
        if more:
            kept |= more
            write_whole(path, (json.dumps(kept, indent=1, sort_keys=True) + "\n").encode())
        num = self.log.num_positions
        sizes = {"rows": len(self), "positions": num, "bytes": self.num_bytes}
        return {**self.form.facts(), **sizes, "bytes_a_position": self.num_bytes / num if num else None, **kept}

    # -- rows as bytes ------------------------------------------------------------------------------------------
    def _front(self, row: Asked, code: Code | None) -> bytes:
        first = int(row.places[0])
        breaks = np.flatnonzero(np.diff(row.places) > 1) + 1
        starts, lengths = row.places[np.append(0, breaks)], np.diff(np.append(np.append(0, breaks), len(row.places)))
        runs = np.stack([starts - first, lengths], 1).astype("<u4").tobytes()
        tokens = zlib.compress(row.tokens[first:].astype(self._token_type).tobytes(), 9)
        name = bytes.fromhex(code.name) if code is not None else bytes(8)
        return FRONT.pack(first, len(row.tokens) - first, len(tokens), len(starts), name) + runs + tokens

    def _read(self, place: Place, row: Asked) -> Fields | None:
        """The row's part of a record; None if the record is of other tokens or does not cover the row."""
        body = self.log.read(place)
        first, num, size, num_runs, name = FRONT.unpack_from(body)
        if first != row.places[0] or num < len(row.tokens) - first:
            return None
        at = FRONT.size + 8 * num_runs
        tokens = np.frombuffer(zlib.decompress(body[at : at + size]), self._token_type).astype(np.int64)
        if not np.array_equal(tokens[: len(row.tokens) - first], row.tokens[first:]):
            return None
        runs = np.frombuffer(body[FRONT.size : at], "<u4").reshape(-1, 2).astype(np.int64)
        places = np.concatenate([np.arange(a, a + b) for a, b in runs]) + first
        which = np.searchsorted(places, row.places)
        if which[-1] >= len(places) or not np.array_equal(places[which], row.places):
            return None
        code = self._named(bytes(name).hex()) if self.form.coded else None
        fields = self.form.fields(body[at + size :], tokens[places - first], code)
        return {k: v[which] for k, v in fields.items()} | {"targets": row.targets}

    @property
    def _token_type(self) -> str:
        return "<u2" if self.form.num_categories <= 1 << 16 else "<u4"

    # -- codes --------------------------------------------------------------------------------------------------
    def _fit(self, rows: Sequence[tuple[Asked, Fields]]) -> Code | None:
        """The code to write with: fitted anew when much more was seen than the last one had."""
        if not self.form.coded:
            return None
        if self._coding is None:
            form = self.form  # not self: a cycle would keep the shard locked until it is collected
            self._coding = Coding(self._latest(), lambda out, row: form.put(out, *row))
        num = sum(len(asked.places) for asked, _ in rows)
        code = self._coding.see([(fields, asked.targets) for asked, fields in rows], num)
        if not (self.folder / f"code-{code.name}.bin").exists():
            write_whole(self.folder / f"code-{code.name}.bin", code.data)
        return code

    def _latest(self) -> Code:
        names = [p.stem.removeprefix("code-") for p in self.folder.glob("code-*.bin")]
        none = Code(self.form.num_categories)
        return max((self._named(n) for n in names), key=lambda c: (c.num_positions, c.name), default=none)

    def _named(self, name: str) -> Code:
        if name not in self._codes:
            path = self.folder / f"code-{name}.bin"
            data = path.read_bytes() if path.exists() else b""
            if hash_bytes(data)[:16] != name:
                raise StoreError(
                    str(path),
                    got="a damaged file" if data else "no file",
                    expected="the code that rows were written with",
                    remedy="Restore it, or move the folder away and make the cache again.",
                )
            self._codes[name] = Code.read(data, str(path))
        return self._codes[name]


class _Index:
    """Records by their keys: sorted arrays, so that memory grows by few bytes a record."""

    def __init__(self, log: Log) -> None:
        entries = [s.entries for s in log.shards] or [np.zeros(0, "<u8")]
        self._shard = np.repeat(np.arange(len(log.shards)), [len(e) for e in entries][: len(log.shards)])
        self._entries = np.concatenate(entries)
        self._order = {k: np.argsort(self._entries[k], kind="stable") for k in ("whole", "prefix") if log.shards}
        self._keys = {k: self._entries[k][order] for k, order in self._order.items()}

    def whole(self, key: int) -> list[Place]:
        """The records of a whole row."""
        return self._found("whole", key)

    def prefix(self, key: int) -> list[Place]:
        """Some records that begin alike."""
        return self._found("prefix", key)

    def _found(self, name: str, key: int) -> list[Place]:
        if name not in self._keys:
            return []
        low, high = (int(np.searchsorted(self._keys[name], np.uint64(key), side)) for side in ("left", "right"))
        rows = self._order[name][low : min(high, low + MOST_LOOKED_AT)]
        some = self._entries[rows]
        return [Place(int(s), int(e["offset"]), int(e["length"])) for s, e in zip(self._shard[rows], some, strict=True)]


def opened(folder: Path | str, form: Form | None = None, key: Mapping[str, str] | None = None) -> Cache:
    """A cache that exists, whose manifest says what it is.

    Args:
        folder: Where it is.
        form: What it must hold; None for whatever it does.
        key: What it must have been made from; None for whatever it was.

    Raises:
        StoreError: There is none, or it is another one.
    """
    found = read_manifest(Path(folder))
    held = form_of(dict(found.facts or {}))
    return Cache(folder, found.key if key is None else key, held if form is None else replace(form))  # type: ignore[type-var]


def teacher_key(model: Any) -> dict[str, str]:
    """What a teacher's answers depend on: content hashes of its weights and tokenizer, and its precision.

    Raises:
        StoreError: The model does not say what its weights are.
    """
    hashes = model_hashes(model, getattr(model, "name", ""))
    return hashes | {name: str(model.facts[name]) for name in ("dtype", "bits") if model.facts.get(name)}


def _digest(*parts: Ints) -> int:
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        hashed.update(struct.pack("<I", len(part)) + part.astype("<i4").tobytes())
    return int.from_bytes(hashed.digest(), "little")
