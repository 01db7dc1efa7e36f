"""Corpora: JSONL, Parquet and `datasets` folders as records."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..core.errors import DataError, SettingError, missing_extra, unknown
from ..core.record import Record
from .shapes import COLUMNS, Shape, is_written, shape_of, written
from .tasks import PREFIX, read_tasks

PACKAGE = "package:"


def read(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    chat: bool = False,
    limit: int | None = None,
    skip: int = 0,
) -> list[Record]:
    """Records from a file or folder.

    Rows are plain text (``text``), prompt and completion (``prompt``, ``completion``; a file without the second gives
    prompts), or chat (``messages`` of ``role``, ``content`` and, if wanted, ``trains``; by default the assistant's do).
    A run's own ``rows.jsonl`` is read back as it was written, exact token ids included.
    Other columns become ``fields``; ids come from a column ``id``, else they are ``<file stem>-<line>``.

    Args:
        source: A ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file, a folder that ``datasets`` saved, or
            ``package:IMPORT_NAME/path/inside`` for one of these in an installed package, which is not imported; or
            ``tasks:NAME?SETTING=VALUE``, problems that are made on the fly and can be graded (``data.tasks``).
        columns: The file's column for one of ours, such as ``{"prompt": "question", "completion": "answer"}``.
        chat: Turn prompt and completion into a user's and an assistant's turn, else they are text.
        limit: Read at most so many rows.
        skip: Leave out so many first.

    Raises:
        DataError: The file is missing, empty or malformed (with line and column), or has doubled ids.
        SettingError: A wrong column map, limit or skip.
    """
    _check_settings(dict(columns or {}), limit, skip)
    if str(source).startswith(PREFIX):
        return read_tasks(str(source), chat=chat, limit=limit, skip=skip)
    path = locate(source)
    columns = dict(columns or {})
    stop = None if limit is None else skip + limit
    records = _records(path, islice(_rows(path), skip, stop), columns, chat)
    if not records and limit != 0:
        raise DataError(
            str(path), got=f"no rows after skipping {skip}", expected="at least one", remedy="Check the file and skip."
        )
    return records


def _records(
    path: Path, rows: Iterable[tuple[int, Mapping[str, Any]]], columns: Mapping[str, str], chat: bool
) -> list[Record]:
    shape: Shape | None = None
    lines: dict[str, int] = {}
    records = []
    for line, row in rows:
        where = f"{path.name}, line {line}"
        if is_written(row):
            record = written(row, where)
        else:
            shape = shape or shape_of(row, columns, chat, where)
            record = shape.record(row, where, f"{_stem(path)}-{line}", _stem(path))
        if record.id in lines:
            raise DataError(
                where,
                got=f"id {record.id!r}, which line {lines[record.id]} has too",
                expected="ids that differ",
                remedy="Rename one, or map another column to id.",
            )
        lines[record.id] = line
        records.append(record)
    return records


def locate(source: str | Path) -> Path:
    """The path that a source names.

    Raises:
        DataError: There is nothing, or no such package.
    """
    text = str(source)
    path = _in_package(text.removeprefix(PACKAGE)) if text.startswith(PACKAGE) else Path(source).expanduser()
    if not path.exists():
        raise DataError(text, got="no such file or folder", expected="data to read", remedy="Check the path.")
    return path


def _in_package(text: str) -> Path:
    name, _, inside = text.partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise DataError(
            f"{PACKAGE}{text}",
            got=f"no installed package {name!r}",
            expected="a package that holds data",
            remedy=f"Install it (pip install {name.replace('_', '-')}) or check the import name.",
        )
    root = Path(folders[0]).resolve()
    path = (root / inside).resolve()
    if not path.is_relative_to(root):
        raise DataError(
            f"{PACKAGE}{text}", got="a path out of the package", expected="one inside", remedy="Remove the '..'."
        )
    return path


def _check_settings(columns: Mapping[str, str], limit: int | None, skip: int) -> None:
    for name, column in columns.items():
        if name not in COLUMNS:
            raise unknown("columns", name, COLUMNS, "Map one of ours to a column of the file.")
        if not isinstance(column, str):
            raise SettingError(
                f"columns.{name}", got=repr(column), expected="a column's name", remedy="Write the name as text."
            )
    if skip < 0 or (limit is not None and limit < 0):
        raise SettingError(
            "read", got=f"limit={limit}, skip={skip}", expected="0 or more", remedy="Change these settings."
        )


def _stem(path: Path) -> str:
    return path.name.partition(".")[0] or path.name


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with their numbers, from 1."""
    if path.is_dir():
        return _saved_rows(path)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _json_rows(path)
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    raise DataError(
        str(path),
        got=f"a file {path.suffix or 'without ending'}",
        expected=".jsonl, .jsonl.gz, .parquet or a folder that datasets saved",
        remedy="Convert it: one JSON object a line.",
    )


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        number = 0
        while True:
            number += 1
            where = f"{path.name}, line {number}"
            try:
                raw = file.readline()
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _malformed(f"{where}, byte {error.start + 1}", "bytes that are not UTF-8") from error
            except (OSError, EOFError) as error:
                raise _malformed(where, f"a file that cannot be read on: {error}") from error
            if not raw:
                return
            if text.strip():
                yield number, _object(text, where)


def _object(text: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text.rstrip("\r\n"))
    except (ValueError, RecursionError) as error:
        column = getattr(error, "colno", 1)
        raise _malformed(f"{where}, column {column}", f"malformed JSON ({getattr(error, 'msg', error)})") from error
    if not isinstance(value, dict):
        raise _malformed(where, f"a JSON {type(value).__name__}")
    return value


def _malformed(where: str, got: str) -> DataError:
    return DataError(where, got=got, expected="one JSON object a line", remedy="Mend or remove the line.")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("reading Parquet", "pyarrow", "data") from error
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            str(path), got=f"an unreadable file: {error}", expected="Parquet", remedy="Write it again."
        ) from error


def _saved_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("reading a datasets folder", "datasets", "data") from error
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # a foreign library's many ways to refuse a folder
        raise DataError(
            str(path), got=f"an unreadable folder: {error}", expected="a saved Dataset", remedy="Save it again."
        ) from error
    if isinstance(found, datasets.DatasetDict):
        raise DataError(
            str(path),
            got=f"several splits: {', '.join(map(str, found))}",
            expected="one",
            remedy="Name the split's folder inside it.",
        )
    for number in range(len(found)):
        yield number + 1, dict(found[number])
