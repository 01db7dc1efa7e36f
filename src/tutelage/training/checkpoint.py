"""Checkpoints: written whole or not at all, verified when read, by any number of processes.

A checkpoint is a folder of safetensors and one ``manifest.json`` with a digest of every file. It is written under a
temporary name and renamed when complete, so a kill or a full disk leaves the earlier one untouched. No pickle is read.
Of tensors that are split over processes each writes its rows and reads the rows it needs, so no process holds them
whole, and another number of processes can go on. All processes see one file system.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..core.errors import StoreError
from ..core.joined import Alone, Peers
from .shards import like, rows

MANIFEST = "manifest.json"
Made = TypeVar("Made")
Like = Callable[[str], Tensor | None]
"""By a tensor's name, the one whose split what is read takes over; None reads it whole."""


@dataclass
class Checkpoint:
    """What a run needs to go on: tensors by file name, and plain values.

    Args:
        step: Optimiser steps done.
        tensors: Groups of tensors (a model's weights, an optimiser's state) by group name: the same in all processes,
            whole or split.
        plain: JSON-ready values; the first process's are written.
        own: Groups that this process alone has.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    own: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint, keep_last: int = 1, peers: Peers | None = None) -> Path:
    """Write a checkpoint below ``folder`` and delete all but the newest ``keep_last``; all processes call it.

    Raises:
        StoreError: When the disk refuses, in whichever process; earlier checkpoints stay.
    """
    peers = peers or Alone()
    final = folder / f"step-{checkpoint.step:08d}"
    temporary = _temporary(final)
    try:
        _everywhere(peers, lambda: _empty(temporary) if peers.rank == 0 else None)
        written = _everywhere(peers, lambda: _write(temporary, checkpoint, peers.rank))
        parts = {name: part for some in written for name, part in some.items()}
        _everywhere(peers, lambda: _finish(final, checkpoint, parts, peers.world) if peers.rank == 0 else None)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StoreError(
            f"checkpoint {final}",
            got=str(error),
            expected="room and permission to write",
            remedy="Earlier checkpoints are whole: free some space and run the same command to go on.",
        ) from error
    for old in steps(folder)[:-keep_last] if peers.rank == 0 else ():
        shutil.rmtree(old, ignore_errors=True)
    return final


def steps(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = folder.glob("step-*") if folder.is_dir() else ()
    return sorted(p for p in found if re.fullmatch(r"step-\d{8,}", p.name))


def latest(folder: Path, **how: Any) -> Checkpoint | None:
    """The newest checkpoint, read as by ``load``; None if there is none."""
    found = steps(folder)
    return load(found[-1], **how) if found else None


def load(path: Path, peers: Peers | None = None, split: Mapping[str, Like] | None = None) -> Checkpoint:
    """Read a checkpoint; each process verifies some of the files.

    Groups that were one process's own come back to it, or, where their number is another, to one of a number modulo it.

    Args:
        path: The checkpoint.
        peers: The processes that read it together.
        split: By group, how its tensors are split here; others are read whole.

    Raises:
        StoreError: When a file is missing, was changed or is not whole.
    """
    peers = peers or Alone()
    remedy = f"Delete {path} to go on from the checkpoint before it (or from the stage's start)."
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files: Mapping[str, str] = manifest["files"]
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"checkpoint {path}", got=f"an unreadable manifest ({error})", expected="a whole checkpoint", remedy=remedy
        ) from error
    _everywhere(peers, lambda: _verify(path, files, sorted(files)[peers.rank :: peers.world], remedy))
    groups: dict[str, list[tuple[Path, Mapping[str, Any]]]] = {}
    for name in files:
        part = manifest.get("parts", {}).get(name, {"group": Path(name).name.removesuffix(".safetensors")})
        if part.get("own", peers.rank) % manifest.get("processes", 1) == peers.rank % manifest.get("processes", 1):
            groups.setdefault(part["group"], []).append((path / Path(name).name, part.get("rows", {})))
    likes = split or {}
    tensors = {group: _read(some, likes.get(group, lambda name: None), remedy) for group, some in groups.items()}
    return Checkpoint(manifest["step"], tensors, manifest["plain"])


def _verify(path: Path, files: Mapping[str, str], some: Sequence[str], remedy: str) -> None:
    for name in some:
        file = path / Path(name).name
        if not file.is_file() or digest(file) != files[name]:
            raise StoreError(
                f"checkpoint file {file}",
                got="a missing or changed file",
                expected=f"digest {files[name][:12]}",
                remedy=remedy,
            )


def _temporary(final: Path) -> Path:
    return final.with_name(final.name.replace("step-", ".writing-"))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _finish(final: Path, checkpoint: Checkpoint, parts: Mapping[str, Mapping[str, Any]], num_processes: int) -> None:
    """Say what there is, and put it in place: from here on it is a checkpoint."""
    temporary = _temporary(final)
    manifest = {
        "step": checkpoint.step,
        "processes": num_processes,
        "files": {name: part["digest"] for name, part in parts.items()},
        "parts": {name: part for name, part in parts.items() if "group" in part},
        "plain": checkpoint.plain,
    }
    write_text(temporary / MANIFEST, json.dumps(manifest))
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
    _sync(final.parent)


def _write(folder: Path, checkpoint: Checkpoint, rank: int) -> dict[str, dict[str, Any]]:
    """Write this process's files; what the manifest says of each."""
    out = {}
    for group, tensors in checkpoint.tensors.items():
        split = {name: rows(t) for name, t in tensors.items() if isinstance(t, DTensor)}
        mine = {name: t for name, t in tensors.items() if name not in split} if rank == 0 else {}
        mine |= {name: part for name, (part, _, _) in split.items()}
        if split:
            first = {name: [start, num] for name, (_, start, num) in split.items()}
            out |= _file(folder / f"{group}.{rank}.safetensors", mine, group=group, rows=first)
        elif rank == 0:
            out |= _file(folder / f"{group}.safetensors", mine)
    for group, tensors in checkpoint.own.items():
        out |= _file(folder / f"{group}.of-{rank}.safetensors", tensors, group=group, own=rank)
    return out


def _file(path: Path, tensors: Mapping[str, Tensor], **facts: Any) -> dict[str, dict[str, Any]]:
    # Tied weights share memory, which safetensors refuses: each name gets its own copy.
    save_file(_unshared(tensors), path)
    return {path.name: {"digest": digest(path), **facts}}


def _read(files: Sequence[tuple[Path, Mapping[str, Any]]], split: Like, remedy: str) -> dict[str, Tensor]:
    """The tensors of a group: those of its files, rows put together, and of split ones this process's rows alone."""
    found: dict[str, list[tuple[int, Tensor]]] = {}
    missing: dict[str, int] = {}
    parted: set[str] = set()
    for file, starts in files:
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 (it is no mapping)
                target = _fitting(stored, name, starts.get(name), split(name))
                parted |= {name} if target is not None else set()
                first, piece, wanted = _rows_here(stored, name, starts.get(name), target)
                found.setdefault(name, []).append((first, piece))
                missing[name] = missing.get(name, wanted) - _num_rows(piece)
    if lost := [name for name, num in missing.items() if num]:
        raise StoreError(
            f"checkpoint files {', '.join(file.name for file, _ in files)}",
            got=f"not all rows of {lost[0]!r}",
            expected="each row once",
            remedy=remedy,
        )
    out = {}
    for name, pieces in found.items():
        some = [values for _, values in sorted(pieces, key=lambda pair: pair[0])]
        values = some[0] if len(some) == 1 else torch.cat(some)
        target = split(name)
        out[name] = like(values, target) if isinstance(target, DTensor) and name in parted else values
    return out


def _fitting(stored: Any, name: str, place: Any, target: Tensor | None) -> Tensor | None:
    """The target, if it is split and of the stored tensor's shape: what does not fit is read whole, and told later."""
    shape = stored.get_slice(name).get_shape()
    whole = (place[1], *shape[1:]) if place else tuple(shape)
    return target if isinstance(target, DTensor) and whole == tuple(target.shape) else None


def _rows_here(stored: Any, name: str, place: Any, target: Tensor | None) -> tuple[int, Tensor, int]:
    """What a file has of the rows that this process wants: the first one's number, the rows, and how many it wants."""
    part = stored.get_slice(name)
    shape = part.get_shape()
    if not shape:
        return 0, stored.get_tensor(name), 1
    start, num = place or (0, shape[0])
    begin, end = 0, num
    if target is not None:
        mine, begin, _ = rows(target)
        end = begin + mine.shape[0]
    low, high = max(begin, start), min(end, start + shape[0])
    if high - low == shape[0]:
        return low, stored.get_tensor(name), end - begin
    return low, part[max(0, low - start) : max(0, high - start)], end - begin


def _num_rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.dim() else 1


def _everywhere(peers: Peers, work: Callable[[], Made]) -> list[Made]:
    """What the work gave in every process; where it failed in one, all raise."""
    made: Any = None
    failed: OSError | None = None
    try:
        made = work()
    except SafetensorError as error:
        failed = OSError(str(error))
    except OSError as error:  # a StoreError is one, and stays what it is
        failed = error
    told = peers.gather((made, failed))
    for rank, (_, error) in enumerate(told):
        if error is not None:
            raise error if peers.world == 1 or isinstance(error, StoreError) else OSError(f"process {rank}: {error}")
    return [value for value, _ in told]


def digest(path: Path) -> str:
    """BLAKE2b of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"file {path}",
            got=str(error),
            expected="room and permission to write",
            remedy="Free some space and run the same command to go on.",
        ) from error


def split_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a flat state, and the rest."""
    return (
        {k: v for k, v in state.items() if isinstance(v, Tensor)},
        {k: v for k, v in state.items() if not isinstance(v, Tensor)},
    )


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    out = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        out[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return out


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
