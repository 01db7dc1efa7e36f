"""Provenance: where along right and wrong answers the sentences of teacher and student stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import DataError, SettingError
from ..core.record import Record
from ..data.credit import LABELS
from ..data.steps.credit import FIELD

SIDES = ("right", "wrong")


@dataclass(frozen=True)
class Profiles:
    """Of answers whose sentences are credited: how large each class is, and where its sentences stand.

    The result: ``shares``, each class among all sentences and among those of right and of wrong answers;
    ``by_position``, for each of both a row a place j in the answer: of the answers that have a j-th sentence, ``count``
    of them, the share of each class; ``area``, for each class the sum over the places that both have of
    ``|right - wrong|``, and ``lead``, the same without the bars: above 0 where right answers hold more of it.

    Args:
        right: The note of the row that is above 0 for a right answer; empty if answers are not graded, all then count
            as right.
        longest: Places that are shown, from the first, at least 1.
    """

    right: str = "right"
    longest: int = 64

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise SettingError(
                "Profiles.longest", got=str(self.longest), expected="at least 1", remedy="64 shows most answers."
            )

    def __call__(self, records: Sequence[Record]) -> dict[str, Any]:
        """The result, JSON-ready.

        Raises:
            DataError: A record was not graded, or its sentences were not credited.
        """
        labels: dict[str, list[list[str]]] = {side: [] for side in SIDES}
        for record in records:
            labels[SIDES[not self._is_right(record)]].append([s["label"] for s in _field(record)])
        every = [label for side in labels.values() for answer in side for label in answer]
        places = {side: self._by_position(answers) for side, answers in labels.items()}
        both = list(zip(*places.values(), strict=False))
        gaps = {label: [one[label] - other[label] for one, other in both] for label in LABELS}
        present = [label for label in LABELS if label in every]
        flat = {side: [label for answer in answers for label in answer] for side, answers in labels.items()}
        return {
            "num_records": {side: len(answers) for side, answers in labels.items()},
            "num_sentences": len(every),
            "labels": present,
            "shares": {name: _shares(some, present) for name, some in {"all": every, **flat}.items()},
            "by_position": places,
            "area": {label: sum(map(abs, gaps[label])) for label in present},
            "lead": {label: sum(gaps[label]) for label in present},
        }

    def _by_position(self, answers: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        rows = []
        for j in range(min(self.longest, max(map(len, answers), default=0))):
            here = [answer[j] for answer in answers if len(answer) > j]
            rows.append({"position": j, "count": len(here), **_shares(here, LABELS)})
        return rows

    def _is_right(self, record: Record) -> bool:
        if self.right and self.right not in record.notes:
            raise _missing(
                record, f"notes {', '.join(sorted(record.notes)) or 'none'}", f"a note {self.right!r}", "Grade"
            )
        return not self.right or record.notes[self.right] > 0


def _shares(labels: Sequence[str], of: Sequence[str]) -> dict[str, float]:
    return {label: labels.count(label) / max(1, len(labels)) for label in of}


def _field(record: Record) -> Sequence[Mapping[str, Any]]:
    if FIELD not in record.fields:
        raise _missing(record, f"fields {', '.join(sorted(record.fields)) or 'none'}", f"a field {FIELD!r}", "Credit")
    return record.fields[FIELD]


def _missing(record: Record, got: str, expected: str, step: str) -> DataError:
    return DataError(f"record {record.id!r}", got=got, expected=expected, remedy=f"Put a {step} step into the chain.")
