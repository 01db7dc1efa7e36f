"""Files that survive: whole or not at all, appended or as before."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

from ..core.errors import StoreError


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write every byte to an unbuffered file and force them to the disk."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    os.fsync(file.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one move: whoever reads it sees the old bytes or all of the new.

    Raises:
        StoreError: The disk refuses; what was there is still there.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb", buffering=0) as file:
            write_all(file, data)
        os.replace(partial, path)
        _settle(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise refused(path, error) from error


def append(path: Path, data: bytes, size: int) -> int:
    """Add bytes behind the first ``size`` of a file and return the new size.

    Raises:
        StoreError: The disk refuses, or someone else wrote; the first ``size`` bytes are as before.
    """
    new = not path.exists()
    try:
        with path.open("ab", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != size:
                raise StoreError(
                    str(path),
                    got=f"{os.fstat(file.fileno()).st_size} bytes",
                    expected=f"the {size} bytes this process knows of",
                    remedy="Another process writes to this store: stop it, then run again.",
                )
            try:
                write_all(file, data)
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
        if new:
            _settle(path.parent)
    except StoreError:
        raise
    except OSError as error:
        raise refused(path, error) from error
    return size + len(data)


def mend_tail(path: Path) -> int:
    """Cut a last line that was not written to its end, and return the file's size; 0 if there is no file."""
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)
            os.fsync(file.fileno())
    return end


def refused(path: Path, error: OSError) -> StoreError:
    """The error for a write that failed."""
    return StoreError(
        str(path),
        got=f"{error.strerror or error}",
        expected="room and permission to write",
        remedy="Free space or change the folder, then run again: what was finished is kept.",
    )


def _settle(folder: Path) -> None:
    """Force a folder's entries to the disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
