"""Answers out of a cache: a batch's rows are looked up, what is missing is asked for, stored, and read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...core.batch import View
from ...core.errors import NeedError, StoreError
from ...core.scores import Dense, Lazy, Scores
from ...core.seeds import generator
from ..grid import pad_rows
from . import head as heads
from .form import Fields, Form, stacked
from .plain import States
from .store import Asked, Cache

Ask = Callable[[View], Scores]
"""A teacher: scores over the units of a view."""

MOST_TOKENS = 4096


def rows_of(view: View) -> tuple[list[Asked], np.ndarray]:
    """The rows of a grid that units sit in, and for each unit its place among all positions of these rows, in order.

    Rows are told apart by their positions, so it does not matter how they are padded or packed.
    """
    ids = view.inputs["input_ids"].flatten().cpu().numpy()
    position = view.inputs["position_ids"].flatten().cpu().numpy()
    at = view.at.cpu().numpy()
    start = at - position[at]
    order = np.lexsort((at, start))
    bounds = np.flatnonzero(np.diff(start[order])) + 1
    rows = []
    for some in np.split(at[order], bounds) if len(at) else ():
        begin = some[0] - position[some[0]]
        rows.append(Asked(ids[begin : some[-1] + 2].astype(np.int64), position[some].astype(np.int64) + 1))
    home = np.empty(len(at), np.int64)
    home[order] = np.arange(len(at))
    return rows, home


def view_of(rows: Sequence[Asked], device: torch.device) -> View:
    """A grid of rows whose units are their positions, row by row."""
    inputs, start = pad_rows([row.tokens.tolist() for row in rows], "right", 0)
    at = np.concatenate([begin + row.places - 1 for begin, row in zip(start, rows, strict=True)])
    return View(inputs, torch.from_numpy(at)).to(device)


@torch.no_grad()
def answer(cache: Cache, view: View, ask: Ask | None) -> Scores:
    """The scores over a view's units; what was not stored is asked for and stored.

    Hits and misses give the same numbers: what was just stored is read back.

    Args:
        cache: Where answers are.
        view: What is asked about.
        ask: The teacher, or None if there is none.

    Raises:
        StoreError: Rows are missing and there is no teacher; or the disk refuses.
    """
    rows, home = rows_of(view)
    found = [cache.find(row) for row in rows]
    missing = list({rows[i].whole: rows[i] for i, one in enumerate(found) if one is None}.values())
    if missing:
        if ask is None:
            raise _missing(cache, missing, len(rows))
        new = dict(zip((row.whole for row in missing), store(cache, missing, ask, view.at.device), strict=True))
        found = [new[row.whole] if one is None else one for row, one in zip(rows, found, strict=True)]
    return _on(scores_of(cache, [one for one in found if one is not None], home), view.at.device)


@torch.no_grad()
def store(cache: Cache, rows: Sequence[Asked], ask: Ask, device: torch.device) -> list[Fields]:
    """Ask for rows, a few at a time, and store them; returns them as they will be read back."""
    kept: dict[int, Fields] = {}
    for some in batches_of(rows):
        scores, parts = told(cache.form, cache.key.get("weights", ""), some, ask, device)
        if isinstance(cache.form, States) and isinstance(scores, Lazy):
            heads.write(cache.folder, scores.head)
        kept |= zip((row.whole for row in some), cache.add(parts), strict=True)
    return [kept[row.whole] for row in rows]


def told(
    form: Form, weights: str, rows: Sequence[Asked], ask: Ask, device: torch.device
) -> tuple[Scores, list[tuple[Asked, Fields]]]:
    """What a teacher says of rows in one pass, and what a form keeps of each; draws are made under its ``weights``.

    Raises:
        NeedError: The teacher has another number of categories.
    """
    scores = ask(view_of(rows, device))
    if scores.num_categories != form.num_categories:
        raise NeedError(
            f"teacher cache of {form.num_categories} categories",
            got=f"a teacher of {scores.num_categories} categories",
            expected=str(form.num_categories),
            remedy="Use the folder with the pair that it was made for, or another folder.",
        )
    parts, begin = [], 0
    for row in rows:
        mine = slice(begin, begin + len(row.places))
        begin = mine.stop
        draws = generator(0, "teacher cache", weights, row.whole)
        parts.append((row, form.of(_part(scores, mine), row.targets, draws)))
    return scores, parts


def scores_of(cache: Cache, rows: Sequence[Fields], home: np.ndarray | None = None) -> Scores:
    """The scores of stored rows, in the order that ``home`` names."""
    if not rows:
        return Dense(torch.zeros(0, cache.form.num_categories))
    joined = {name: stacked([row[name] for row in rows]) for name in rows[0]}
    if home is not None:
        joined = {name: value[home] for name, value in joined.items()}
    if isinstance(cache.form, States):
        return cache.form.under(joined, cache.head)
    return cache.form.scores(joined)


def _part(scores: Scores, rows: slice) -> Scores:
    """Some rows, still lazy where the scores are."""
    return Lazy(scores.hidden[rows], scores.head) if isinstance(scores, Lazy) else scores.held(rows)


def _on(scores: Scores, device: torch.device) -> Scores:
    tensors: dict[str, Any] = {
        f.name: getattr(scores, f.name).to(device)
        for f in fields_of(scores)  # type: ignore[arg-type]
        if isinstance(getattr(scores, f.name), torch.Tensor)
    }
    return replace(scores, **tensors)  # type: ignore[type-var]


def batches_of(rows: Sequence[Asked]) -> list[list[Asked]]:
    """Rows of about one length that are asked together, the shortest first."""
    out: list[list[Asked]] = []
    for row in sorted(rows, key=lambda r: len(r.tokens)):
        if out and (len(out[-1]) + 1) * len(row.tokens) <= MOST_TOKENS:
            out[-1].append(row)
        else:
            out.append([row])
    return out


def _missing(cache: Cache, missing: Sequence[Asked], num_rows: int) -> StoreError:
    first = missing[0].tokens
    return StoreError(
        f"teacher cache {cache.folder}",
        got=f"{len(missing)} of {num_rows} rows that are not there, the first of {len(first)} tokens: "
        f"{', '.join(map(str, first[:6].tolist()))} ...",
        expected="what the teacher says of each, as there is no teacher to ask",
        remedy="Write it for these rows with the same max_length (tutelage cache RUNFILE), or name the teacher's "
        "weights beside the cache (load): what is missing is then asked for and kept.",
    )
