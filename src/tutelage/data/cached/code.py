"""The entropy code: counted tables and ids ranked by how often they come, which turn whole numbers into few bytes.

Numbers go through a range coder (the library ``constriction``), each under one of a few named tables of counts.
Ids are renamed by rank, most frequent first, and split into a class (an eighth of an octave of ranks) and the place
inside it, which is coded evenly. Within a run of equal levels the order of ids carries nothing: they are sorted, so
that only the steps between their classes are paid for.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import StoreError, missing_extra
from ..hashing import hash_bytes

Ints = NDArray[np.int64]

MOST_CATEGORIES = 1 << 20
MANTISSA_BITS = 3
NUM_BUCKETS = 8
SMOOTHING = 0.5
CHECKED_SYMBOLS = 256


def coder() -> Any:
    """The range coder's library.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        library: Any = import_module("constriction")
    except ImportError:
        raise missing_extra("a compressed teacher cache", "constriction", "cache") from None
    return library.stream


@dataclass(frozen=True, eq=False)
class Code:
    """Tables of counts and a ranking of ids.

    Args:
        size: V, the number of ids, at most 2^20.
        tables: By name, counts Int[A] of each symbol; a table that is not there is flat.
        head: The most frequent ids, in order; the others follow by number.
        num_positions: How many positions were counted.
    """

    size: int
    tables: Mapping[str, Ints] = field(default_factory=dict)
    head: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    num_positions: int = 0

    @cached_property
    def order(self) -> Ints:
        """The id at each rank."""
        rest = np.ones(self.size, bool)
        rest[self.head] = False
        return np.concatenate([self.head, np.flatnonzero(rest)])

    @cached_property
    def rank(self) -> Ints:
        """The rank of each id."""
        out = np.empty(self.size, np.int64)
        out[self.order] = np.arange(self.size)
        return out

    @cached_property
    def num_classes(self) -> int:
        """The number of classes that ranks fall into."""
        return int(classes_of(np.array([self.size - 1]))[0][0]) + 1

    @cached_property
    def _models(self) -> dict[tuple[str, int], Any]:
        return {}

    def model(self, table: str, alphabet: int) -> Any:
        """The coder's model of a table over symbols below ``alphabet``, at least 2."""
        if (table, alphabet) not in self._models:
            weights = np.full(alphabet, SMOOTHING)
            counts = self.tables.get(table, np.zeros(0, np.int64))[:alphabet]
            weights[: len(counts)] += counts
            self._models[table, alphabet] = coder().model.Categorical(weights / weights.sum(), perfect=False)
        return self._models[table, alphabet]

    @cached_property
    def data(self) -> bytes:
        """The code as bytes."""
        facts = {
            "size": self.size,
            "num_positions": int(self.num_positions),
            "tables": {name: counts.tolist() for name, counts in sorted(self.tables.items())},
            "check": self._check(),
        }
        text = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
        return zlib.compress(struct.pack("<I", len(text)) + text + self.head.astype("<u4").tobytes(), 9)

    @cached_property
    def name(self) -> str:
        """Sixteen hexadecimal digits of its content's hash."""
        return hash_bytes(self.data)[:16]

    @classmethod
    def read(cls, data: bytes, where: str) -> Code:
        """The inverse of ``data``.

        Raises:
            StoreError: The bytes are damaged, or the coder's library codes otherwise than when they were written.
        """
        try:
            raw = zlib.decompress(data)
            (length,) = struct.unpack_from("<I", raw)
            facts = json.loads(raw[4 : 4 + length])
            tables = {name: np.array(counts, np.int64) for name, counts in facts["tables"].items()}
            head = np.frombuffer(raw, "<u4", offset=4 + length).astype(np.int64)
            code = cls(int(facts["size"]), tables, head, int(facts["num_positions"]))
        except (zlib.error, struct.error, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                where,
                got=f"bytes that cannot be read: {error}",
                expected="a code as it was written",
                remedy="Restore the file, or move the folder away and make the cache again.",
            ) from error
        if code._check() != facts["check"]:
            raise StoreError(
                where,
                got="a version of constriction that codes otherwise",
                expected="the version that the cache was written with",
                remedy="Install that version, or make the cache again.",
            )
        return code

    def _check(self) -> int:
        """A checksum of coded symbols: it changes when the library's arithmetic does."""
        out = Encoder(self)
        for name, counts in sorted(self.tables.items()):
            out.put(name, np.arange(CHECKED_SYMBOLS) % max(2, len(counts)), max(2, len(counts)))
        return zlib.crc32(out.done())


def fitted(size: int, rows: Sequence[Any], put: Callable[[Encoder, Any], None], num_positions: int) -> Code:
    """The code under which some rows are short: ids ranked by their counts, and tables counted under that ranking.

    Args:
        size: V, the number of ids.
        rows: What is counted.
        put: Gives a row to an encoder.
        num_positions: How many positions the rows hold.
    """
    code = Code(size)
    for _ in range(2):  # the tables of classes depend on the ranking, which the first pass finds
        out = Encoder(code)
        for row in rows:
            put(out, row)
        count = np.zeros(size, np.int64)
        for ids in out.ids:
            np.add.at(count, ids, 1)
        seen = np.flatnonzero(count)
        head = seen[np.argsort(-count[seen], kind="stable")]
        code = Code(size, dict(out.counts), head, num_positions)
    return code


class Encoder:
    """Symbols to bytes, under a code."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.counts: dict[str, Ints] = {}
        self.ids: list[Ints] = []
        self._out = coder().queue.RangeEncoder()
        self._uniform = coder().model.Uniform()

    def put(self, table: str, symbols: Ints, alphabet: int) -> None:
        """Code symbols below ``alphabet``; one that is alone in its alphabet costs nothing."""
        if alphabet < 2 or not len(symbols):
            return
        count = np.bincount(symbols, minlength=len(self.counts.get(table, ())))
        count[: len(self.counts.get(table, ()))] += self.counts.get(table, 0)
        self.counts[table] = count
        self._out.encode(symbols.astype(np.int32), self.code.model(table, alphabet))

    def put_even(self, values: Ints, sizes: Ints) -> None:
        """Code numbers that are equally likely below their sizes."""
        real = sizes > 1
        if real.any():
            self._out.encode(values[real].astype(np.int32), self._uniform, sizes[real].astype(np.int32))

    def done(self) -> bytes:
        """The bytes."""
        return self._out.get_compressed().astype("<u4").tobytes()


class Decoder:
    """Bytes to symbols, in the order in which an ``Encoder`` was given them."""

    def __init__(self, code: Code, data: bytes | memoryview) -> None:
        self.code = code
        self._in = coder().queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        self._uniform = coder().model.Uniform()

    def take(self, table: str, count: int, alphabet: int) -> Ints:
        """The next symbols."""
        if alphabet < 2 or not count:
            return np.zeros(count, np.int64)
        return self._in.decode(self.code.model(table, alphabet), count).astype(np.int64)

    def take_even(self, sizes: Ints) -> Ints:
        """The next even numbers."""
        out = np.zeros(len(sizes), np.int64)
        real = sizes > 1
        if real.any():
            out[real] = self._in.decode(self._uniform, sizes[real].astype(np.int32))
        return out


def classes_of(ranks: Ints) -> tuple[Ints, Ints]:
    """The class of each rank and the number of ranks in it; classes are eighths of octaves."""
    shifted = ranks + (1 << MANTISSA_BITS)
    width = np.frexp(shifted.astype(np.float64))[1].astype(np.int64) - 1 - MANTISSA_BITS
    return (width << MANTISSA_BITS) + (shifted >> width) - (1 << MANTISSA_BITS), np.int64(1) << width


def ranks_of(classes: Ints) -> tuple[Ints, Ints]:
    """The first rank of each class and the number of ranks in it."""
    width = np.maximum((classes >> MANTISSA_BITS), 0)
    inside = classes - (width << MANTISSA_BITS)
    return ((inside + (1 << MANTISSA_BITS)) << width) - (1 << MANTISSA_BITS), np.int64(1) << width


def put_ids(out: Encoder, table: str, ids: Ints) -> None:
    """Code ids one by one, in their order."""
    ranks = out.code.rank[ids]
    classes, sizes = classes_of(ranks)
    out.ids.append(ids)
    out.put(table, classes, out.code.num_classes)
    out.put_even(ranks - ranks_of(classes)[0], sizes)


def take_ids(source: Decoder, table: str, count: int) -> Ints:
    """The inverse of ``put_ids``."""
    first, sizes = ranks_of(source.take(table, count, source.code.num_classes))
    return source.code.order[np.minimum(first + source.take_even(sizes), source.code.size - 1)]


@dataclass(frozen=True)
class Ranked:
    """Lists of ids, each list ordered by falling level; ids of one level stand by rank.

    Args:
        lengths: Int[U], the length of each list.
        ids: Int[N], the lists one behind another.
        levels: Int[N], below ``num_levels``.
    """

    lengths: Ints
    ids: Ints
    levels: Ints


def ordered(lists: Ranked, code: Code) -> Ranked:
    """The lists in the order in which they are coded."""
    home = np.repeat(np.arange(len(lists.lengths)), lists.lengths)
    place = np.lexsort((code.rank[lists.ids], -lists.levels, home))
    return Ranked(lists.lengths, lists.ids[place], lists.levels[place])


def put_lists(out: Encoder, lists: Ranked, num_levels: int) -> None:
    """Code lists that are ``ordered``; their lengths are known to whoever reads them."""
    place, starts = _places(lists.lengths)
    before = np.concatenate([lists.levels[:1], lists.levels[:-1]])
    steps = np.where(starts, lists.levels, before - lists.levels)
    bucket = _bucket(place)
    for number in range(NUM_BUCKETS):
        out.put(f"level {number}", steps[bucket == number], num_levels)
    ranks = out.code.rank[lists.ids]
    classes, sizes = classes_of(ranks)
    fresh = starts | (steps > 0)
    moves = np.where(fresh, classes, classes - np.concatenate([classes[:1], classes[:-1]]))
    for number in range(NUM_BUCKETS):
        for name, mine in (("first", fresh), ("next", ~fresh)):
            out.put(f"{name} {number}", moves[mine & (bucket == number)], out.code.num_classes)
    out.ids.append(lists.ids)
    out.put_even(ranks - ranks_of(classes)[0], sizes)


def take_lists(source: Decoder, lengths: Ints, num_levels: int) -> Ranked:
    """The inverse of ``put_lists``."""
    place, starts = _places(lengths)
    bucket = _bucket(place)
    masks = [bucket == number for number in range(NUM_BUCKETS)]
    steps = np.zeros(len(place), np.int64)
    for number, mask in enumerate(masks):
        steps[mask] = source.take(f"level {number}", int(mask.sum()), num_levels)
    levels = _summed(np.where(starts, steps, -steps), starts)
    fresh = starts | (steps > 0)
    moves = np.zeros(len(place), np.int64)
    for number, mask in enumerate(masks):
        for name, mine in (("first", fresh & mask), ("next", ~fresh & mask)):
            moves[mine] = source.take(f"{name} {number}", int(mine.sum()), source.code.num_classes)
    first, sizes = ranks_of(_summed(moves, fresh))
    ranks = first + source.take_even(sizes)
    return Ranked(lengths, source.code.order[np.minimum(ranks, source.code.size - 1)], levels)


def _places(lengths: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Each entry's place in its list, and whether it is the first."""
    begin = np.cumsum(lengths) - lengths
    place = np.arange(int(lengths.sum())) - np.repeat(begin, lengths)
    return place, place == 0


def _bucket(place: Ints) -> Ints:
    return np.minimum(np.frexp(place.astype(np.float64))[1], NUM_BUCKETS - 1).astype(np.int64)


def _summed(steps: Ints, starts: NDArray[np.bool_]) -> Ints:
    """Running sums that begin anew at each start."""
    if not len(steps):
        return steps
    total = np.cumsum(steps)
    where = np.flatnonzero(starts)
    return total - np.repeat(total[where] - steps[where], np.diff(np.append(where, len(steps))))
