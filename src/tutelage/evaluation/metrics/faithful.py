"""Faithfulness of answers: whether a student that is right is right like its teacher, and errs like it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ...core.record import Record
from .text import bleu, exact_match, last_number, numeric_match

Concludes = Callable[[str], object]


def conclusion(text: str) -> object:
    """What an answer comes to: its final number, else its whole text without repeated spaces."""
    number = last_number(text)
    return " ".join(text.split()) if number is None else number


@dataclass(frozen=True)
class Faithful:
    """Accuracy and agreement of two answers to one prompt, their BLEU, and the means of notes of the row.

    Args:
        taught: The field with the teacher's answer (the step Stash writes it); the row's own answer is the student's.
        means: Notes of the row whose means are told, such as divergences on the teacher's rationale.
        reads: ``text -> conclusion``; equal conclusions agree.
    """

    taught: str = "taught"
    means: tuple[str, ...] = ()
    reads: Concludes = conclusion

    def __call__(self, rows: Sequence[Record]) -> dict[str, float | int | None]:
        """Shares in [0, 1] of the rows.

        ``agreement`` splits into ``both_right`` and ``both_wrong_alike``. ``unparsable`` are the student's answers
        without a number where the reference has one: they look like disagreement. ``bleu``, in [0, 1], compares words.
        """
        said = ["".join(p.content for p in row.trained()) for row in rows]
        taught = [str(row.fields[self.taught]) for row in rows]
        truth = [str(row.fields.get("reference", "")) for row in rows]
        own, theirs = ([_right(a, t) for a, t in zip(some, truth, strict=True)] for some in (said, taught))
        same = [self.reads(a) == self.reads(b) for a, b in zip(said, taught, strict=True)]
        lost = [last_number(a) is None and last_number(t) is not None for a, t in zip(said, truth, strict=True)]
        return {
            "num_rows": len(rows),
            "student_accuracy": _mean(own),
            "teacher_accuracy": _mean(theirs),
            "agreement": _mean(same),
            "both_right": _mean([s and a and b for s, a, b in zip(same, own, theirs, strict=True)]),
            "both_wrong_alike": _mean([s and not a and not b for s, a, b in zip(same, own, theirs, strict=True)]),
            "unparsable": _mean(lost),
            "bleu": _mean([bleu(a.split(), [b.split()]) for a, b in zip(said, taught, strict=True)]),
            **{name: _mean([row.notes[name] for row in rows]) for name in self.means},
        }


def _right(answer: str, reference: str) -> bool:
    return numeric_match(answer, reference) if last_number(reference) is not None else exact_match(answer, reference)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(map(float, values)) if values else None
