"""Checkpoints: written whole or not at all, verified when read.

A checkpoint is a folder of safetensors and one ``manifest.json`` with a digest of every file. It is written under a
temporary name and renamed when complete, so a kill or a full disk leaves the earlier one untouched. No pickle is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..core.errors import StoreError

MANIFEST = "manifest.json"


@dataclass
class Checkpoint:
    """What a run needs to go on: tensors by file name, and plain values.

    Args:
        step: Optimiser steps done.
        tensors: Groups of tensors (a model's weights, an optimiser's state, a memory's) by group name.
        plain: JSON-ready values.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint, keep_last: int = 1) -> Path:
    """Write a checkpoint below ``folder`` and delete all but the newest ``keep_last``.

    Raises:
        StoreError: When the disk refuses; earlier checkpoints stay.
    """
    final, temporary = folder / f"step-{checkpoint.step:08d}", folder / f".writing-{checkpoint.step:08d}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        digests = {}
        for name, tensors in checkpoint.tensors.items():
            file = temporary / f"{name}.safetensors"
            # Tied weights share memory, which safetensors refuses: each name gets its own copy.
            save_file(_unshared(tensors), file)
            digests[file.name] = digest(file)
        manifest = {"step": checkpoint.step, "files": digests, "plain": checkpoint.plain}
        write_text(temporary / MANIFEST, json.dumps(manifest))
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StoreError(
            f"checkpoint {final}",
            got=str(error),
            expected="room and permission to write",
            remedy="Earlier checkpoints are whole: free some space and run the same command to go on.",
        ) from error
    for old in steps(folder)[:-keep_last]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def steps(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = folder.glob("step-*") if folder.is_dir() else ()
    return sorted(p for p in found if re.fullmatch(r"step-\d{8,}", p.name))


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint, verified; None if there is none."""
    found = steps(folder)
    return load(found[-1]) if found else None


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and verify every file.

    Raises:
        StoreError: When a file is missing or was changed.
    """
    remedy = f"Delete {path} to go on from the checkpoint before it (or from the stage's start)."
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files: Mapping[str, str] = manifest["files"]
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"checkpoint {path}", got=f"an unreadable manifest ({error})", expected="a whole checkpoint", remedy=remedy
        ) from error
    tensors = {}
    for name, expected in files.items():
        file = path / Path(name).name
        if not file.is_file() or digest(file) != expected:
            raise StoreError(
                f"checkpoint file {file}",
                got="a missing or changed file",
                expected=f"digest {expected[:12]}",
                remedy=remedy,
            )
        tensors[file.name.removesuffix(".safetensors")] = load_file(file)
    return Checkpoint(manifest["step"], tensors, manifest["plain"])


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
