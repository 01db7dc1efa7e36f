"""Procedural tasks as data: any number of problems, each with a verifier of its own (package ``reasoning-gym``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from ..core.errors import DataError, SettingError, missing_extra, unknown
from ..core.record import Piece, Record

PREFIX = "tasks:"
SIZE = 500


def read_tasks(source: str, *, chat: bool = False, limit: int | None = None, skip: int = 0) -> list[Record]:
    """Problems of ``tasks:NAME`` or ``tasks:NAME?seed=3&size=200&SETTING=VALUE``, the same ones for the same text.

    A record's prompt is the question; ``fields`` hold the answer as ``reference`` and, in ``task``, how the task is
    made again, which is what the verifier ``task`` reads.

    Args:
        source: The task's name and settings; ``seed`` is 0 and ``size`` 500 unless given.
        chat: Make the question a user's turn.
        limit: Most problems.
        skip: Problems left out first.

    Raises:
        UnknownName: No task is called so.
        SettingError: A setting that the task does not have or refuses.
        MissingExtra: reasoning-gym is not installed.
    """
    name, _, query = source.removeprefix(PREFIX).partition("?")
    settings = {key: _plain(value) for key, value in parse_qsl(query, keep_blank_values=True)}
    size = int(settings.pop("size", SIZE))
    made = {"name": name, "seed": int(settings.pop("seed", 0)), "size": size, "settings": settings}
    task = _made(json.dumps(made, sort_keys=True), source)
    stop = size if limit is None else min(size, skip + limit)
    out = []
    for index in range(skip, stop):
        item = task[index]
        piece = Piece(item["question"], "user" if chat else "text", part="prompt")
        fields = {"reference": item["answer"], "task": {**made, "index": index}}
        out.append(Record(f"{name}-{index}", (piece,), fields, origin=source))
    return out


def task_of(made: Mapping[str, Any], where: str) -> Any:
    """The task that a record came from.

    Raises:
        DataError: The field is not what ``read_tasks`` wrote.
    """
    try:
        key = {k: made[k] for k in ("name", "seed", "size", "settings")}
        int(made["index"])
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"record {where!r}",
            got=f"a task {str(made)[:60]!r}",
            expected="name, seed, size, settings and index",
            remedy="Read the data with a path tasks:NAME.",
        ) from None
    return _made(json.dumps(key, sort_keys=True), f"record {where!r}")


@lru_cache(maxsize=32)
def _made(key: str, where: str) -> Any:
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError:
        raise missing_extra(f"Data set {where!r}", "reasoning-gym", "tasks") from None
    made = json.loads(key)
    if made["name"] not in DATASETS:
        raise unknown(f"data set {where!r}", made["name"], DATASETS)
    try:
        return create_dataset(made["name"], seed=made["seed"], size=made["size"], **made["settings"])
    except (TypeError, AssertionError, ValueError) as error:
        raise SettingError(
            f"data set {where!r}",
            got=str(error)[:200] or type(error).__name__,
            expected="settings of that task, in their ranges",
            remedy="Its configuration in reasoning-gym lists them.",
        ) from error


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
