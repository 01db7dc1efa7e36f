"""Manifests: what a store was made from, and whether that is what is asked for now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.errors import StoreError
from .files import write_whole

NAME = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """A store's description.

    Args:
        key: Content hashes of all that its rows depend on, by name.
        num_done: Batches that are finished.
        complete: True if nothing is to come.
        facts: Anything else, JSON-ready.
    """

    key: Mapping[str, str]
    num_done: int = 0
    complete: bool = False
    facts: Mapping[str, Any] | None = None

    def save(self, folder: Path) -> Manifest:
        """Write it in one move."""
        value = {
            "format": FORMAT,
            "key": dict(self.key),
            "num_done": self.num_done,
            "complete": self.complete,
            "facts": dict(self.facts or {}),
        }
        write_whole(folder / NAME, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())
        return self


def open_manifest(folder: Path, key: Mapping[str, str], facts: Mapping[str, Any] | None = None) -> Manifest:
    """The folder's manifest; a new one where the folder holds nothing.

    Raises:
        StoreError: It was made from something else (what differs is named), or cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                str(folder), got=str(error), expected="a folder to write in", remedy="Choose another folder."
            ) from error
        others = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if others:
            raise StoreError(
                str(folder),
                got=f"files without a manifest: {', '.join(others[:3])}",
                expected="an empty folder or a store",
                remedy="Choose another folder.",
            )
        return Manifest(dict(key), facts=dict(facts or {})).save(folder)
    found = _read(path)
    _compare(folder, found.key, key)
    _compare(folder, {k: str(v) for k, v in (found.facts or {}).items()}, {k: str(v) for k, v in (facts or {}).items()})
    return replace(found, key=dict(key))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a store that exists.

    Raises:
        StoreError: There is none, or it cannot be read.
    """
    if not (folder / NAME).is_file():
        raise StoreError(
            str(folder), got=f"no {NAME}", expected="the folder of a store", remedy="Check the path, or make the store."
        )
    return _read(folder / NAME)


def _read(path: Path) -> Manifest:
    try:
        value = json.loads(path.read_bytes())
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']}")
        key = {str(k): str(v) for k, v in value["key"].items()}
        return Manifest(key, int(value["num_done"]), bool(value["complete"]), dict(value["facts"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            str(path),
            got=f"a manifest that cannot be read: {error}",
            expected=f"JSON of format {FORMAT}",
            remedy="Move the folder away and make the store again.",
        ) from error


def _compare(folder: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    differs = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    if differs:
        first = differs[0]
        raise StoreError(
            str(folder),
            got=f"a store made with another {', '.join(differs)} ({first}: {_short(found.get(first))})",
            expected=f"{first} {_short(wanted.get(first))}",
            remedy="Use what it was made with, or another folder: what it holds is not changed.",
        )


def _short(value: str | None) -> str:
    return "none" if value is None else value if len(value) <= 20 else value[:12] + "..."
