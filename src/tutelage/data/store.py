"""Row stores: generated rows, kept as they are finished.

A row that was finished is never lost and never doubled, wherever the process is killed: a batch is one append, a torn
last line is cut off when the store is opened, and a batch that was half written is computed again in the same
composition, so its rows come out the same and only the missing ones are added.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import SettingError, StoreError
from ..core.record import Record
from ..core.workspace import Workspace
from .engines.local import Engine, Local
from .files import append, mend_tail
from .hashing import hash_bytes, hash_records, model_hashes
from .manifest import Manifest, open_manifest
from .pipeline import reads_of


class RowStore:
    """An append-only JSONL file of records in a folder of its own.

    Args:
        folder: Holds ``rows.jsonl`` and ``manifest.json``.
        key: Content hashes of all that the rows depend on (see ``row_key``).

    Raises:
        StoreError: The folder holds a store made with another key, something else, or damaged rows.
    """

    def __init__(self, folder: Path | str, key: Mapping[str, str]) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "rows.jsonl"
        self._manifest = open_manifest(self.folder, key)
        self._size = mend_tail(self.path)
        self._ids: dict[str, None] = {}
        for record in self.records():
            if record.id in self._ids:
                raise self._damaged(len(self._ids) + 1, f"id {record.id!r} for the second time")
            self._ids[record.id] = None

    @property
    def manifest(self) -> Manifest:
        """The store's description."""
        return self._manifest

    @property
    def complete(self) -> bool:
        """True if nothing is to come."""
        return self._manifest.complete

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, name: object) -> bool:
        return name in self._ids

    def records(self) -> Iterator[Record]:
        """The rows in order, read one by one.

        Raises:
            StoreError: A line cannot be read (with its number).
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield Record.from_dict(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise self._damaged(number, str(error)) from error

    def append(self, records: Sequence[Record]) -> None:
        """Add rows in one write that is on the disk when this returns.

        Raises:
            StoreError: An id is there already, or the disk refuses; the store is then as before.
        """
        ids = [record.id for record in records]
        doubled = sorted({i for i in ids if i in self._ids or ids.count(i) > 1}) if ids else []
        if doubled or self.complete:
            raise StoreError(
                str(self.path),
                got=f"rows that are there: {', '.join(doubled[:3])}" if doubled else "rows for a complete store",
                expected="new rows with ids of their own",
                remedy="Give each row its own id." if doubled else "Use another folder.",
            )
        if not ids:
            return
        data = b"".join(_line(record) for record in records)
        self._size = append(self.path, data, self._size)
        self._ids.update(dict.fromkeys(ids))

    def done(self, num_done: int, complete: bool = False) -> None:
        """Note that so many batches are finished, and whether these are all."""
        self._manifest = replace(self._manifest, num_done=num_done, complete=complete).save(self.folder)

    def _damaged(self, line: int, got: str) -> StoreError:
        return StoreError(
            f"{self.path}, line {line}",
            got=got,
            expected="one record a line, each id once",
            remedy="Restore the file, or move the folder away and make the store again.",
        )


def generate(
    steps: Sequence[Any],
    prompts: Sequence[Record],
    ws: Workspace,
    store: RowStore,
    batch_size: int = 32,
    engine: Engine | None = None,
) -> Iterator[int]:
    """Run the steps over the prompts batch by batch into a store; yields the batches done so far, out of all.

    Batch i is prompts ``i * batch_size`` to ``(i + 1) * batch_size``, whether or not a run was stopped before: a run
    that goes on gives the file of an undisturbed run, byte for byte, on any engine.

    Raises:
        SettingError: A step reads more than a batch holds.
        StoreError: See ``RowStore``.
    """
    if batch_size < 1:
        raise SettingError(
            "generate", got=f"batch_size={batch_size}", expected="at least 1", remedy="Change this setting."
        )
    for step in steps:
        if reads_of(step) == "whole":
            raise SettingError(
                f"generate with {step!r}",
                got="a step that reads the whole data set",
                expected="steps that read rows or groups, because rows are stored batch by batch",
                remedy="Run that step with run_steps over the finished store.",
            )
    return _generate(steps, prompts, ws, store, batch_size, engine or Local())


def _generate(
    steps: Sequence[Any], prompts: Sequence[Record], ws: Workspace, store: RowStore, batch_size: int, engine: Engine
) -> Iterator[int]:
    total = -(-len(prompts) // batch_size)
    left = range(store.manifest.num_done, total)
    batches = (prompts[number * batch_size : (number + 1) * batch_size] for number in left)
    for number, rows in zip(left, engine(steps, batches, ws), strict=True):
        # rows that are there come from this batch, stopped before it was noted as done
        store.append([row for row in rows if row.id not in store])
        store.done(number + 1, complete=number + 1 == total)
        yield number + 1
    if not store.complete:
        store.done(total, complete=True)


def row_key(steps: Sequence[Any], prompts: Sequence[Record], ws: Workspace, batch_size: int = 32) -> dict[str, str]:
    """Content hashes of all that generated rows depend on: steps, prompts, seed, and each model that the steps name.

    Raises:
        SettingError: A step prints as an address in memory, so another process could not know it again.
        StoreError: See ``model_key``.
    """
    text = repr(tuple(steps))
    if " at 0x" in text:
        raise SettingError(
            "row_key",
            got=f"steps that print as an address: {text}",
            expected="steps and rules that print what they are",
            remedy="Write the function as a frozen dataclass with __call__.",
        )
    key = {
        "steps": hash_bytes(text.encode()),
        "prompts": hash_records(prompts),
        "seed": str(ws.seed),
        "draws": repr(ws.path),
        "batch size": str(batch_size),
    }
    asked = {slot for step in steps if hasattr(step, "slots") for slot in step.slots()}
    for slot in sorted(asked & set(ws.models)):
        key.update(model_key(slot, ws))
    return key


def model_key(slot: str, ws: Workspace) -> dict[str, str]:
    """Content hashes of a slot's weights and tokenizer.

    Raises:
        StoreError: The model does not say what its weights are.
    """
    return {f"{slot}'s {name}": found for name, found in model_hashes(ws.models[slot], slot).items()}


def _line(record: Record) -> bytes:
    try:
        text = json.dumps(record.to_dict(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return (text + "\n").encode()
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"record {record.id!r}",
            got=f"what JSON cannot hold: {error}",
            expected="text, numbers, lists and mappings in fields and notes",
            remedy="Keep what a teacher says in its cache (models.SLOT.cache) and other tensors in files.",
        ) from error
