"""Peers: each row is given what other answers to its prompt said, the right ones to follow, a wrong one to avoid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ...core.errors import SettingError
from ...core.record import Record
from ...core.seeds import generator
from ...core.signal import Noted
from ...core.workspace import Workspace
from ..views import Told
from .keep import row_note

FIELD, NOTE = "peers", "informed"
INFORMED = Noted(NOTE, "rows")
TAGS = re.compile(r"</?think>|<\|[^|>]*\|>")


@dataclass(frozen=True)
class Peers:
    """Writes into the field ``peers`` of each row of a group what its other rows answered.

    The field holds lists of texts: ``right``, the first right ones in order; ``wrong``, one of the wrong ones drawn at
    random; ``feedback``, what the row's own environment said, where no right one is there. A row's own answer is never
    among them; thinking tags and special tokens are taken out. The note ``informed`` of the row is 1 where a text was
    found, else 0.

    Args:
        right: Right answers told at most, >= 0.
        wrong: Wrong answers told at most, 0 or 1.
        least: The note of a right answer is at least this.
        always: Tell the wrong one also where a right one is told.
        longest: Characters of a text that are told.
        note: The note of the row that says how right it is.
        feedback: The field with what the environment said; rows without it have none.
    """

    right: int = 2
    wrong: int = 1
    least: float = 1.0
    always: bool = True
    longest: int = 4000
    note: str = "right"
    feedback: str = "feedback"
    reads: ClassVar[str] = "group"

    def __post_init__(self) -> None:
        if self.right < 0 or self.wrong not in (0, 1) or self.right + self.wrong < 1 or self.longest < 1:
            raise SettingError(
                "Peers",
                got=f"right={self.right}, wrong={self.wrong}, longest={self.longest}",
                expected="right >= 0, wrong 0 or 1, not both 0, and a character or more of each",
                remedy="2 right ones and 1 wrong one are the paper's best.",
            )

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows of a group with their peers, in order."""
        rows = list(records)
        solved = [row_note(row, self.note) >= self.least for row in rows]
        for place, row in enumerate(rows):
            others = [n for n in range(len(rows)) if n != place]
            draw = generator(ws.seed, *ws.path, FIELD, row.id)
            told = {
                "right": [n for n in others if solved[n]][: self.right],
                "wrong": _drawn([n for n in others if not solved[n]], self.wrong, draw),
            }
            if told["right"] and not self.always:
                told["wrong"] = []
            texts: dict[str, list[str]] = {name: self._texts([rows[n] for n in ns]) for name, ns in told.items()}
            own = str(row.fields.get(self.feedback) or "")
            texts["feedback"] = [own[: self.longest]] if own and not texts["right"] else []
            notes = {**row.notes, NOTE: float(any(texts.values()))}
            yield replace(row, fields={**row.fields, FIELD: texts}, notes=notes)

    def _texts(self, rows: Sequence[Record]) -> list[str]:
        texts = ("".join(piece.content for piece in row.trained()) for row in rows)
        cleaned = (TAGS.sub("", text).strip()[: self.longest] for text in texts)
        return [text for text in cleaned if text]


@dataclass(frozen=True)
class TellPeers:
    """The view in which a prompt is followed by what ``Peers`` found; a row of which nothing was found is as it is.

    Args:
        right: Stands before a right answer.
        wrong: Stands before a wrong one.
        feedback: Stands before what the environment said.
        after: Stands behind them all.
    """

    right: str = "\n\nA correct solution:\n"
    wrong: str = "\n\nA failed attempt; avoid repeating it:\n"
    feedback: str = "\n\nFeedback on an earlier attempt:\n"
    after: str = "\n\nNow solve the original problem correctly."

    def __call__(self, record: Record) -> Record:
        """The record as the informed voice reads it."""
        peers: dict[str, list[str]] = record.fields.get(FIELD) or {}
        heads = {"right": self.right, "wrong": self.wrong, "feedback": self.feedback}
        text = "".join(heads[name] + said for name in heads for said in peers.get(name, ()))
        if not text:
            return record
        told = Told(FIELD, before="", after=self.after)(replace(record, fields={FIELD: text}))
        return replace(told, fields=record.fields)


def _drawn(places: list[int], num: int, draw: Any) -> list[int]:
    """Up to ``num`` of some places, drawn without replacement."""
    return [places[i] for i in torch.randperm(len(places), generator=draw).tolist()[:num]]
