"""Every n-th row: fewer prompts, evenly over the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from ...core.errors import SettingError
from ...core.record import Record
from ...core.workspace import Workspace


@dataclass(frozen=True)
class Every:
    """The first of each ``n`` rows; answered ``n`` times each they are as many rows as before.

    Rows that are stored come batch by batch, and counting begins anew in each: an ``n`` that divides the batch (a power
    of 2) is exact.

    Args:
        n: >= 1; 1 keeps all.
    """

    n: int
    reads: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise SettingError("Every.n", got=str(self.n), expected="a whole number >= 1", remedy="1 keeps all rows.")

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows that stay, in order."""
        yield from islice(records, 0, None, self.n)
