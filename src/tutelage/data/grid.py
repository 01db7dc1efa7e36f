"""Grids: rows of ids laid out as tensors, padded or packed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WIDTHS = 8


def pad_rows(ids: Sequence[Sequence[int]], padding: str, pad_id: int) -> tuple[dict[str, Tensor], list[int]]:
    """One grid row a row.

    Args:
        ids: Token ids, at least one a row.
        padding: ``right`` or ``left``.
        pad_id: Fills the rest; the mask hides it.

    Returns:
        ``input_ids``, ``position_ids`` (0 at a row's first token and on padding) and ``attention_mask``, Int[B T]; and
        for each row the place of its first token in the flattened grid.
    """
    width = max(map(len, ids))
    shape = (len(ids), width)
    input_ids = torch.full(shape, pad_id)
    position_ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    start = []
    for number, row in enumerate(ids):
        begin = width - len(row) if padding == "left" else 0
        where = slice(begin, begin + len(row))
        input_ids[number, where] = torch.tensor(row)
        position_ids[number, where] = torch.arange(len(row))
        mask[number, where] = 1
        start.append(number * width + begin)
    return {"input_ids": input_ids, "position_ids": position_ids, "attention_mask": mask}, start


def first_fit(lengths: Sequence[int], names: Sequence[str], capacity: int) -> list[list[int]]:
    """Rows by bin: the longest first, each into the first bin with room.

    Ties go by name, so the bins do not depend on the order of the rows.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda r: (-lengths[r], names[r])):
        place = next((b for b, free in enumerate(room) if free >= lengths[row]), len(bins))
        if place == len(bins):
            bins.append([])
            room.append(capacity)
        bins[place].append(row)
        room[place] -= lengths[row]
    return bins


def pack(lengths: Sequence[int], names: Sequence[str], capacity: int) -> list[list[int]]:
    """Rows by grid row, so that the grid has the fewest cells; of equal grids the narrowest: its attention is cheapest.

    A wide grid holds more rows a line, but its width is that of its fullest line: several widths are tried.
    """
    longest = max(lengths)
    widths = sorted({longest + (capacity - longest) * step // WIDTHS for step in range(WIDTHS + 1)})
    tried = [first_fit(lengths, names, width) for width in widths]
    return min(tried, key=lambda bins: len(bins) * max(sum(lengths[r] for r in some) for some in bins))


def pack_rows(
    ids: Sequence[Sequence[int]], names: Sequence[str], capacity: int, pad_id: int
) -> tuple[dict[str, Tensor], list[int]]:
    """Several rows in one grid row, none of which sees another.

    Args:
        ids: Token ids, at most ``capacity`` a row.
        names: Break ties between rows of one length.
        capacity: The most tokens of a grid row.
        pad_id: Fills the rest.

    Returns:
        ``input_ids`` and ``position_ids`` Int[B T], which start at 0 in each row, and ``attention_mask`` Bool[B 1 T T],
        True where a query may look; and for each row the place of its first token in the flattened grid.
    """
    bins = pack([len(row) for row in ids], names, capacity)
    width = max(sum(len(ids[r]) for r in some) for some in bins)
    shape = (len(bins), width)
    input_ids = torch.full(shape, pad_id)
    position_ids = torch.zeros(shape, dtype=torch.long)
    owner = torch.full(shape, -1)
    start = [0] * len(ids)
    for number, some in enumerate(bins):
        begin = 0
        for row in some:
            where = slice(begin, begin + len(ids[row]))
            input_ids[number, where] = torch.tensor(ids[row])
            position_ids[number, where] = torch.arange(len(ids[row]))
            owner[number, where] = row
            start[row] = number * width + begin
            begin = where.stop
    return {"input_ids": input_ids, "position_ids": position_ids, "attention_mask": _blocks(owner)}, start


def _blocks(owner: Tensor) -> Tensor:
    """A causal mask within each block: Bool[B 1 T T]."""
    width = owner.shape[1]
    same = owner.unsqueeze(2) == owner.unsqueeze(1)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    # padding is a block of its own: a query that may look nowhere would give nan
    return (same & causal).unsqueeze(1)
