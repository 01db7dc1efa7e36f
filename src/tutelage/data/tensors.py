"""Tensor stores: what a teacher said, kept on disk and read row by row.

Shards are safetensors files that are opened when a row of theirs is asked for and mapped, not loaded; opening a store
reads its manifest and its index of rows only. An index line is written when its shard is on the disk, so whatever was
there before a full disk or a kill is still there after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..core.errors import StoreError
from ..core.scores import Scores
from .files import append, mend_tail, write_whole
from .hashing import hash_bytes, hash_file, hash_ids
from .manifest import open_manifest
from .saying import Saying

INDEX = "index.jsonl"


@dataclass(frozen=True)
class Said:
    """One row to be stored.

    Args:
        id: The record's.
        tokens: The row's token ids, all of them; their hash guards against rows that changed.
        fields: What the layout holds, each over the row's T positions.
    """

    id: str
    tokens: Sequence[int]
    fields: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Place:
    shard: int
    start: int
    stop: int
    tokens: str


class TensorStore:
    """A cache of what a voice said, by record.

    Args:
        folder: A folder of its own.
        key: Content hashes of the teacher's weights and tokenizer (``model_key``), and of anything else it depends on.
        holds: The layout: ``DenseScores``, ``TopScores`` or ``Hidden``.

    Raises:
        StoreError: The folder holds a cache by another teacher, tokenizer or layout, or a damaged one.
    """

    def __init__(self, folder: Path | str, key: Mapping[str, str], holds: Saying) -> None:
        self.folder, self.holds = Path(folder), holds
        open_manifest(self.folder, key, {"holds": repr(holds)})
        self._index = self.folder / INDEX
        self._size = mend_tail(self._index)
        self._places: dict[str, _Place] = {}
        self._digests: list[str] = []
        self._open: dict[int, Any] = {}
        if self._size:
            with self._index.open("rb") as file:
                for line in file:
                    self._enter(line)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    @property
    def num_open(self) -> int:
        """The number of shards that were opened."""
        return len(self._open)

    def append(self, rows: Sequence[Said]) -> None:
        """Add rows as one shard that is on the disk when this returns.

        Raises:
            StoreError: An id is there already, or the disk refuses; the store is then as before.
            DataError: Fields that are not what the layout holds.
        """
        if not rows:
            return
        ids = [row.id for row in rows]
        doubled = sorted({i for i in ids if i in self._places or ids.count(i) > 1})
        if doubled:
            raise StoreError(
                str(self.folder),
                got=f"rows that are there: {', '.join(doubled[:3])}",
                expected="new rows",
                remedy="Give each row its own id, or ask the store for it instead.",
            )
        data = save(dict(self.holds.join([row.fields for row in rows], ids)))
        number = len(self._digests)
        write_whole(self._path(number), data)
        entries, start = [], 0
        for row in rows:
            stop = start + self.holds.length(row.fields)
            entries.append([row.id, start, stop, hash_ids(row.tokens)])
            start = stop
        line = json.dumps({"sha256": hash_bytes(data), "rows": entries}, ensure_ascii=False).encode() + b"\n"
        self._size = append(self._index, line, self._size)
        self._enter(line)

    def get(self, name: str, tokens: Sequence[int]) -> dict[str, Tensor]:
        """The fields of a row.

        Args:
            name: The record's id.
            tokens: The row's token ids as they are now.

        Raises:
            StoreError: The row is not there, was another when it was stored, or lies in a damaged shard.
        """
        place = self._places.get(name)
        if place is None or place.tokens != hash_ids(tokens):
            raise StoreError(
                f"row {name!r} of {self.folder}",
                got="no such row" if place is None else "a row stored for other token ids",
                expected="the row as it was when it was stored",
                remedy="Make the cache for these records: the data, the template or the answer changed.",
            )
        shard = self._shard(place.shard)
        try:
            return {field: shard.get_slice(field)[place.start : place.stop] for field in self.holds.fields}
        except (SafetensorError, IndexError) as error:
            raise self._damaged(place.shard, str(error)) from error

    def scores(self, name: str, tokens: Sequence[int]) -> Scores:
        """The scores of a row's T positions.

        Raises:
            StoreError: See ``get``.
            DataError: The store holds no scores.
        """
        return self.holds.scores(self.get(name, tokens))

    def _shard(self, number: int) -> Any:
        """The open shard; its digest is checked when it is opened."""
        if number not in self._open:
            path = self._path(number)
            if not path.is_file():
                raise self._damaged(number, "no file")
            digest = hash_file(path)
            if digest != self._digests[number]:
                raise self._damaged(number, f"sha256 {digest[:12]}...")
            self._open[number] = safe_open(path, framework="pt")
        return self._open[number]

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.safetensors"

    def _enter(self, line: bytes) -> None:
        number = len(self._digests)
        try:
            value = json.loads(line)
            places = {row: _Place(number, int(a), int(b), tokens) for row, a, b, tokens in value["rows"]}
            self._digests.append(str(value["sha256"]))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self._index}, line {number + 1}",
                got=str(error),
                expected="one shard's rows",
                remedy="Restore the file, or move the folder away and make the cache again.",
            ) from error
        self._places.update(places)

    def _damaged(self, number: int, got: str) -> StoreError:
        return StoreError(
            str(self._path(number)),
            got=got,
            expected=f"sha256 {self._digests[number][:12]}...",
            remedy="The shard is damaged: restore it, or move the folder away and make the cache again.",
        )
