"""Fidelity: how closely the student's distributions follow the teacher's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...core.term import Tally

FIDELITY = ("kl", "reverse_kl", "jensen", "total_variation", "top1", "top5", "student_entropy", "teacher_entropy")
BY_FACET = ("kl", "reverse_kl", "top1", "top5", "student_nll", "teacher_nll")
BY_RECORD = ("kl", "reverse_kl", "top1", "top5", "student_nll", "student_brier", "teacher_nll")

CLASSES = ("words", "digits", "punctuation", "whitespace", "special")

# First positions of the buckets: answers begin with the hardest choices, so the early ones are narrow.
EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class TokenClasses:
    """The class of a token, from its decoded text: words, digits, punctuation, whitespace or special.

    Args:
        tokenizer: Gives ``decode([id])`` and ``all_special_ids``.

    A text that holds a letter is a word, else one that holds a digit is digits; what is only space (newlines included)
    is whitespace and everything left, broken bytes too, is punctuation.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.special = frozenset(int(i) for i in tokenizer.all_special_ids)
        self._known: dict[int, int] = {}

    def __call__(self, ids: Iterable[int]) -> Tensor:
        """Int[U], indices into ``CLASSES``."""
        return torch.tensor([self._code(int(i)) for i in ids], dtype=torch.long)

    def _code(self, token: int) -> int:
        if token not in self._known:
            text = "" if token in self.special else self.tokenizer.decode([token])
            self._known[token] = CLASSES.index("special" if token in self.special else class_of(text))
        return self._known[token]


def class_of(text: str) -> str:
    """The class of a decoded text that is not a special token."""
    if not text.strip():
        return "whitespace"
    if any(c.isalpha() for c in text):
        return "words"
    return "digits" if any(c.isdigit() for c in text) else "punctuation"


def bucket_label(bucket: int) -> str:
    """A bucket's positions as text: ``0``, ``2-3``, ``1024+``."""
    if bucket == len(EDGES) - 1:
        return f"{EDGES[-1]}+"
    low, high = EDGES[bucket], EDGES[bucket + 1] - 1
    return str(low) if low == high else f"{low}-{high}"


@dataclass
class Fidelity:
    """Tallies of what ``measure`` gives: over all positions, by position bucket, by token class and by record.

    Two of them add to the one of both batches, so a figure does not depend on how the records were split.
    """

    tallies: dict[tuple[str, str, str], Tally] = field(default_factory=dict)

    def add(
        self, values: Mapping[str, Tensor], *, time: Tensor, classes: Tensor, row: Tensor, ids: Sequence[str]
    ) -> None:
        """Count some positions in.

        Args:
            values: Float64[U] by name.
            time: Int[U], the place among the row's trained positions.
            classes: Int[U], indices into ``CLASSES``.
            row: Int[U], indices into ``ids``.
            ids: The records' ids; one without a position counts nowhere but is listed with 0 positions.
        """
        one = torch.zeros(len(time), dtype=torch.long)
        bucket = torch.bucketize(time.cpu(), torch.tensor(EDGES), right=True) - 1
        buckets = [bucket_label(b) for b in range(len(EDGES))]
        self._facet("all", ("",), one, values, FIDELITY)
        self._facet("position", buckets, bucket, values, BY_FACET)
        self._facet("class", CLASSES, classes, values, BY_FACET)
        self._facet("record", ids, row.cpu(), values, BY_RECORD)

    def _facet(
        self, facet: str, labels: Sequence[str], code: Tensor, values: Mapping[str, Tensor], names: Iterable[str]
    ) -> None:
        counts = torch.bincount(code, minlength=len(labels)).tolist()
        for name in names:
            sums = torch.bincount(code, weights=values[name].cpu(), minlength=len(labels)).tolist()
            for label, total, count in zip(labels, sums, counts, strict=True):
                if count or facet == "record":
                    key = (facet, label, name)
                    self.tallies[key] = self.tallies.get(key, Tally()) + Tally(total, count)

    def __add__(self, other: Fidelity) -> Fidelity:
        keys = dict.fromkeys((*self.tallies, *other.tallies))
        return Fidelity({k: self.tallies.get(k, Tally()) + other.tallies.get(k, Tally()) for k in keys})

    def overall(self) -> dict[str, float]:
        """Means over all positions by name, and ``num_positions``."""
        means = {name: self.tallies.get(("all", "", name), Tally()).mean for name in FIDELITY}
        return {**means, "num_positions": int(self.tallies.get(("all", "", "kl"), Tally()).count)}

    def by(self, facet: str, order: Sequence[str]) -> list[dict[str, Any]]:
        """Means in each of a facet's labels that has a position: ``{label, count, kl, top1, ...}``."""
        rows = []
        for label in order:
            if (facet, label, "kl") in self.tallies:
                row: dict[str, Any] = {"label": label, "count": int(self.tallies[facet, label, "kl"].count)}
                rows.append({**row, **{name: self.tallies[facet, label, name].mean for name in BY_FACET}})
        return rows

    def by_position(self) -> list[dict[str, Any]]:
        """Means by place in the answer, early ones first."""
        return self.by("position", [bucket_label(b) for b in range(len(EDGES))])

    def by_class(self) -> list[dict[str, Any]]:
        """Means by class of the target token."""
        return self.by("class", CLASSES)

    def by_record(self) -> dict[str, list[Any]]:
        """Columns ``ids``, ``count`` and the mean of each figure a record, in the order the records were seen."""
        ids = [label for facet, label, name in self.tallies if facet == "record" and name == "kl"]
        columns: dict[str, list[Any]] = {"ids": ids}
        columns["count"] = [int(self.tallies["record", i, "kl"].count) for i in ids]
        for name in BY_RECORD:
            columns[name] = [self.tallies["record", i, name].mean for i in ids]
        return columns
