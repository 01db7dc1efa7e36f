"""Credit: write on each row which model its sentences come from; and one pick of a group checked against another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.errors import SettingError
from ...core.record import Record
from ...core.workspace import Workspace
from ..credit import LABELS, Margins
from ..likelihood import Reading, as_text, joined, read, trained_text
from ..sentences import Sentences, Span

FIELD = "credit"
NOTES = ("shared", "from_teacher", "from_student", "boosted", "common")  # in the order of LABELS


@dataclass(frozen=True)
class Credit:
    """Credits each sentence of the answer to the model that finds it clearly more probable, by reading it again.

    Notes of the row: ``sentences``, how many there are; ``from_teacher``, ``from_student``, ``shared``, ``boosted`` and
    ``common``, how many of each class; ``teacher_share``, the first by the number; ``length`` in characters. The field
    ``credit`` lists for each sentence its ``span`` in the text of the trained pieces, its ``label``, and ``p``, the
    geometric mean of its tokens' probabilities by slot. Sentences beyond a model's context are left out and
    counted in the ledger, as deed ``unread`` of ``credit``.

    Args:
        teacher: The slot of p.
        student: The slot of the student, as it was before it learned.
        distilled: The slot of the student that learned; without one, the classes that need it fall away.
        margins: Parts the classes. A beta that is found is found for each group: among all answers to a prompt.
        split: Text to spans that tile it.
        batch_size: Rows a forward pass; memory only.
    """

    teacher: str = "teacher"
    student: str = "student"
    distilled: str | None = None
    margins: Margins = Margins()
    split: Callable[[str], list[Span]] = Sentences()
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SettingError(
                "Credit.batch_size", got=str(self.batch_size), expected="at least 1", remedy="8 is usual."
            )
        if len(set(self._readers())) < len(self._readers()):
            raise SettingError(
                "Credit",
                got=f"slots {', '.join(self._readers())}",
                expected="a slot of its own for each model",
                remedy="Keep a copy of the student before it learns (surgery.copy).",
            )

    @property
    def reads(self) -> str:
        """What it must see at once: all answers to a prompt where the margin is found among them."""
        return "group" if self.margins.beta is None else "row"

    def slots(self) -> frozenset[str]:
        """The model slots that read."""
        return frozenset(self._readers())

    def asks(self) -> tuple[tuple[str, str], ...]:
        """What it needs of whom: the log-probability of the tokens that are there."""
        return tuple((slot, "next.target") for slot in self._readers())

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The records with their credits, in order."""
        size = None if self.reads == "group" else self.batch_size
        while rows := list(islice(records, size)):
            yield from self._credited(rows, ws)

    def _readers(self) -> tuple[str, ...]:
        return (self.teacher, self.student, *((self.distilled,) if self.distilled else ()))

    def _credited(self, rows: Sequence[Record], ws: Workspace) -> Iterator[Record]:
        heard = [read(slot, rows, ws, self.batch_size) for slot in self._readers()]
        readings = list(zip(*heard, strict=True))
        spans = [self._spans(row, said, ws) for row, said in zip(rows, readings, strict=True)]
        probs = [torch.cat([r.means(some) for some, r in zip(spans, own, strict=True)]) for own in heard]
        labels = self.margins(*probs).split([len(some) for some in spans])
        columns = torch.stack(probs, 1).split([len(some) for some in spans])
        for row, some, codes, p in zip(rows, spans, labels, columns, strict=True):
            yield self._written(row, some, codes, p, len(trained_text(as_text(row, ws))))

    def _spans(self, row: Record, readings: Sequence[Reading], ws: Workspace) -> list[Span]:
        at, spans = 0, []
        for piece in as_text(row, ws).trained():
            spans += [(at + a, at + b) for a, b in self.split(piece.content)]
            at += len(piece.content)
        kept = joined(spans, readings)
        num_unread = sum(start >= (kept[-1][1] if kept else 0) for start, _ in spans)
        if num_unread:
            ws.ledger.add(FIELD, "unread", calls=num_unread)
        return kept

    def _written(self, row: Record, spans: Sequence[Span], codes: Tensor, p: Tensor, length: int) -> Record:
        counts = torch.bincount(codes, minlength=len(LABELS)).tolist()
        notes = {note: float(count) for note, count in zip(NOTES, counts, strict=True)}
        notes |= {"sentences": float(len(spans)), "length": float(length)}
        notes["teacher_share"] = notes["from_teacher"] / max(1, len(spans))
        named = [dict(zip(self._readers(), values, strict=True)) for values in p.tolist()]
        table: list[dict[str, Any]] = [
            {"span": list(span), "label": LABELS[code], "p": values}
            for span, code, values in zip(spans, codes.tolist(), named, strict=True)
        ]
        return replace(row, notes={**row.notes, **notes}, fields={**row.fields, FIELD: table})


@dataclass(frozen=True)
class Against:
    """A pick of each group, and how often another one would have picked the same rows.

    Agreement is counted in the ledger as deeds ``same`` and ``other`` of ``PICK against CONTROL``, calls being groups;
    a pick that agrees with the longest answer each time may as well have measured length.

    Args:
        pick: Picks rows of a group, such as ``Best(1, by="from_teacher")``; ``by`` names it.
        control: The other pick.
    """

    pick: Any
    control: Any
    reads: ClassVar[str] = "group"

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows that ``pick`` picks."""
        rows = list(records)
        mine, other = (list(p(iter(rows), ws)) for p in (self.pick, self.control))
        same = [r.id for r in mine] == [r.id for r in other]
        ws.ledger.add(f"{self.pick.by} against {self.control.by}", "same" if same else "other")
        yield from mine
