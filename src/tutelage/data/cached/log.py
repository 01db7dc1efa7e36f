"""Append-only shards: records that are there whole or not at all, found again without reading them.

A record is on the disk before the index says so. When a folder is opened, records behind the last indexed one are
looked for, and a torn last record is left out; whoever writes next cuts it off. A shard has one writer at a time: a
second process writes the next shard.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.errors import StoreError
from ..files import append, refused

try:
    import fcntl
except ImportError:  # where files cannot be locked, one process at a time may write
    fcntl = None

MAGIC = b"TtC1"
HEADER = struct.Struct("<4sIIIQQ")  # magic, checksum, length, positions, keys
ENTRY = np.dtype(
    [("whole", "<u8"), ("prefix", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("positions", "<u4"), ("check", "<u8")]
)
SHARD_BYTES = 1 << 30


class Place(NamedTuple):
    """Where a record is."""

    shard: int
    offset: int
    length: int


@dataclass(frozen=True)
class Entry:
    """A record to be written.

    Args:
        whole: A hash of all that it was asked for.
        prefix: A hash of what comes before its first position.
        positions: How many positions it holds.
        body: Its bytes.
    """

    whole: int
    prefix: int
    positions: int
    body: bytes


class Shard:
    """One file of records and its index."""

    def __init__(self, path: Path) -> None:
        self.path, self.index_path = path, path.with_suffix(".index")
        self.entries = np.zeros(0, ENTRY)
        self._map: mmap.mmap | None = None
        self.refresh()

    @property
    def end(self) -> int:
        """Where the last whole record ends."""
        return _end(self.entries)

    def refresh(self) -> None:
        """Find the records that are there now."""
        try:
            size = self.path.stat().st_size
            raw = self.index_path.read_bytes() if self.index_path.exists() else b""
            found = np.frombuffer(raw[: len(raw) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)
            good = _good(found, size)
            self.num_indexed = good
            self.entries = np.concatenate([found[:good], self._unindexed(_end(found[:good]), size)])
        except OSError as error:
            raise refused(self.path, error) from error

    def read(self, offset: int, length: int) -> memoryview:
        """A record's body.

        Raises:
            StoreError: It is damaged.
        """
        start, stop = offset + HEADER.size, offset + HEADER.size + length
        view = self._view(stop)
        if view is None:
            raise self._damaged(offset, f"a file of {self.path.stat().st_size if self.path.exists() else 0} bytes")
        magic, check, told, _, _, _ = HEADER.unpack_from(view, offset)
        if magic != MAGIC or told != length or check != zlib.crc32(view[offset + 8 : stop]):
            raise self._damaged(offset, "bytes with another checksum")
        return view[start:stop]

    def write(self, entries: Sequence[Entry]) -> list[int]:
        """Add records in one write that is on the disk when this returns; their offsets.

        Raises:
            StoreError: The disk refuses; the shard is then as before.
        """
        offsets, data, offset = [], [], self.end
        for entry in entries:
            tail = struct.pack("<IIQQ", len(entry.body), entry.positions, entry.whole, entry.prefix) + entry.body
            data.append(MAGIC + struct.pack("<I", zlib.crc32(tail)) + tail)
            offsets.append(offset)
            offset += len(data[-1])
        append(self.path, b"".join(data), self.end)
        rows = [(e.whole, e.prefix, o, len(e.body), e.positions, 0) for e, o in zip(entries, offsets, strict=True)]
        new = np.array(rows, ENTRY)
        new["check"] = _mixed(new)
        self.entries = np.concatenate([self.entries, new])
        late = self.entries[self.num_indexed :]
        append(self.index_path, late.tobytes(), self.num_indexed * ENTRY.itemsize)
        self.num_indexed = len(self.entries)
        return offsets

    def mend(self) -> None:
        """Cut off what is torn, in both files."""
        for path, size in ((self.path, self.end), (self.index_path, self.num_indexed * ENTRY.itemsize)):
            if path.exists() and path.stat().st_size > size:
                with path.open("r+b") as file:
                    file.truncate(size)

    def _unindexed(self, offset: int, size: int) -> NDArray[Any]:
        found = []
        view = self._view(size) if size - offset >= HEADER.size else None
        while view is not None and offset + HEADER.size <= size:
            magic, check, length, positions, whole, prefix = HEADER.unpack_from(view, offset)
            stop = offset + HEADER.size + length
            if magic != MAGIC or stop > size or check != zlib.crc32(view[offset + 8 : stop]):
                break
            found.append((whole, prefix, offset, length, positions, 0))
            offset = stop
        out = np.array(found, ENTRY)
        out["check"] = _mixed(out)
        return out

    def _view(self, stop: int) -> memoryview | None:
        """The file's bytes, mapped; None where it is shorter."""
        if self._map is None or len(self._map) < stop:
            if not self.path.exists() or self.path.stat().st_size < stop or not stop:
                return None
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(self._map)

    def _damaged(self, offset: int, got: str) -> StoreError:
        return StoreError(
            f"{self.path}, byte {offset}",
            got=got,
            expected="the record as it was written",
            remedy="Restore the file, or delete it and its .index: what it held can then be asked for again.",
        )


class Log:
    """All shards of a folder; safe to open by several processes at once.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = [Shard(p) for p in sorted(folder.glob("shard-*.bin"))]
        self._writer: tuple[int, Any] | None = None

    @property
    def num_positions(self) -> int:
        """Positions in all records."""
        return int(sum(int(s.entries["positions"].sum()) for s in self.shards))

    def read(self, place: Place) -> memoryview:
        """A record's body.

        Raises:
            StoreError: It is damaged.
        """
        return self.shards[place.shard].read(place.offset, place.length)

    def write(self, entries: Sequence[Entry]) -> list[Place]:
        """Add records; they are on the disk when this returns.

        Raises:
            StoreError: The disk refuses; what was there is still there.
        """
        number = self._locked()
        offsets = self.shards[number].write(entries)
        return [Place(number, o, len(e.body)) for o, e in zip(offsets, entries, strict=True)]

    def _locked(self) -> int:
        """The shard that this process writes: the last one that is free and not full, else a new one."""
        if self._writer is not None and self.shards[self._writer[0]].end < SHARD_BYTES:
            return self._writer[0]
        path = self.shards[-1].path if self.shards else self.folder / "shard-00000.bin"
        while True:
            handle = _lock(path)
            if handle is not None:
                number = self._shard(path)
                self.shards[number].refresh()
                if self.shards[number].end < SHARD_BYTES:
                    self.shards[number].mend()
                    self._writer = (number, handle)
                    return number
            path = self.folder / f"shard-{int(path.stem.removeprefix('shard-')) + 1:05d}.bin"

    def _shard(self, path: Path) -> int:
        found = [i for i, shard in enumerate(self.shards) if shard.path == path]
        if not found:
            self.shards.append(Shard(path))
        return found[0] if found else len(self.shards) - 1


def _lock(path: Path) -> Any:
    """The open file, locked for this process; None if another process writes it."""
    try:
        handle = path.open("ab")
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle
    except BlockingIOError:
        return None
    except OSError as error:
        raise refused(path, error) from error


def _end(entries: NDArray[Any]) -> int:
    return int(entries["offset"][-1] + entries["length"][-1]) + HEADER.size if len(entries) else 0


def _good(entries: NDArray[Any], size: int) -> int:
    """How many index entries, from the first, are undamaged and of records that lie one behind another in the file."""
    ends = entries["offset"] + entries["length"] + np.uint64(HEADER.size)
    begins = np.concatenate([np.zeros(1, np.uint64), ends[:-1]]) if len(entries) else ends
    right = (entries["check"] == _mixed(entries)) & (entries["offset"] == begins) & (ends <= size)
    return len(entries) if right.all() else int(right.argmin())


def _mixed(entries: NDArray[Any]) -> NDArray[np.uint64]:
    """A checksum of each index entry."""
    out = np.full(len(entries), 0x9E3779B97F4A7C15, np.uint64)
    for name in ("whole", "prefix", "offset", "length", "positions"):
        out = (out ^ entries[name].astype(np.uint64)) * np.uint64(0xD6E8FEB86659FD93)
        out ^= out >> np.uint64(32)
    return out
