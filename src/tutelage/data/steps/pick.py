"""Picks: the best of all rows, or the best of each group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...core.errors import SettingError
from ...core.record import Record
from ...core.workspace import Workspace
from .keep import row_note


@dataclass(frozen=True)
class Top:
    """The ``ceil(share * n)`` rows with the largest note, in their order; ties go to the earlier.

    Args:
        share: In (0, 1].
        by: A note of the row.
    """

    share: float
    by: str
    reads: ClassVar[str] = "whole"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SettingError(
                "Top.share", got=str(self.share), expected="above 0, at most 1", remedy="Give a share of the rows."
            )

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The picked rows."""
        rows = list(records)
        # rounding first: 0.1 * 30 is a hair above 3
        yield from _largest(rows, math.ceil(round(self.share * len(rows), 9)), self.by)


@dataclass(frozen=True)
class Best:
    """The ``count`` rows of each group with the largest note, in their order; ties go to the earlier.

    Args:
        count: Rows a group; a smaller group stays whole.
        by: A note of the row.
    """

    count: int
    by: str
    reads: ClassVar[str] = "group"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise SettingError(
                "Best.count", got=str(self.count), expected="at least 1", remedy="Give the rows to keep of a group."
            )

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The picked rows."""
        yield from _largest(list(records), self.count, self.by)


def _largest(rows: Sequence[Record], count: int, by: str) -> list[Record]:
    order = sorted(range(len(rows)), key=lambda place: (-row_note(rows[place], by), place))
    return [rows[place] for place in sorted(order[:count])]
