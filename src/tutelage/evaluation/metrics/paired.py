"""Figures of rows that were answered twice: what the second way of asking does to what the first got right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.record import Record


@dataclass(frozen=True)
class Harm:
    """How often an answer that was right is wrong when it is asked for in another way.

    Both ways answer the same prompts, so a system that loses some answers and finds others is told from one that keeps
    them all; a difference of the two accuracies hides it.

    Args:
        first: The row note of the first way: above 0.5 is right.
        second: The row note of the second.
    """

    first: str
    second: str

    def __call__(self, rows: Sequence[Record]) -> dict[str, float | int | None]:
        """``harm`` is P(second wrong | first right), ``rescue`` P(second right | first wrong); None where unknown."""
        pairs = [(row.notes[self.first] > 0.5, row.notes[self.second] > 0.5) for row in rows]
        right, wrong = ([b for a, b in pairs if a is side] for side in (True, False))
        return {
            "num_rows": len(pairs),
            "first_right": _mean([a for a, _ in pairs]),
            "second_right": _mean([b for _, b in pairs]),
            "harm": _mean([not b for b in right]),
            "rescue": _mean(wrong),
        }


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
