"""A model that reads the records in its own tokenizer's ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...core.recipe import Train
from ...core.voice import Says
from ...data.foreign import chunks_of


@dataclass(frozen=True)
class Aligned(Says):
    """What a model says of the same text in its own ids: its units are ``SLOT``, and ``SLOT.chunks`` the shared spans.

    The view it reads is made in collate from the record's text, so its template, its special tokens and its prompt are
    its own; only the bytes of the trained pieces are the same.

    Args:
        slot: The model slot, whose tokenizer need not be the student's.
        sees: The foreign view's name; the slot's by default.
    """

    sees: str = ""

    def __post_init__(self) -> None:
        if not self.sees:
            object.__setattr__(self, "sees", self.slot)

    @property
    def chunks(self) -> str:
        """The unit list of the byte spans that it shares with ``tokens``."""
        return chunks_of(self.sees)


def foreign_slots(stage: Train) -> Mapping[str, str]:
    """By foreign view, the slot whose tokenizer it is in: what the aligned voices of a stage read."""
    found: dict[str, Any] = {v.sees: v.slot for v in stage.voices.values() if isinstance(v, Aligned)}
    return found
