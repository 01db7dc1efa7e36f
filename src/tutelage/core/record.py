"""Records: rows of data as ordered pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

ROLES = ("system", "user", "assistant", "text")


@dataclass(frozen=True)
class Piece:
    """A stretch of a record that one author wrote.

    Args:
        content: The text.
        role: Where a chat template puts it: ``system``, ``user`` or ``assistant``; ``text`` stands
            outside any template and is written as it is.
        author: Who wrote it: ``data``, or the slot name of the model that did.
        part: The name of the part it plays (``prompt``, ``answer`` ...), for rules that read it.
        trains: True if its tokens are trained positions.
        ids: The exact token ids when a model wrote it, stop token included. They are never re-tokenised.
        notes: Numbers computed once, one for each of ``ids``.
        stop: Why writing ended: ``eos``, ``length`` or empty when no model wrote it.
    """

    content: str
    role: str = "text"
    author: str = "data"
    part: str = ""
    trains: bool = False
    ids: tuple[int, ...] | None = None
    notes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    stop: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; defaults are left out."""
        out: dict[str, Any] = {"content": self.content, "role": self.role}
        if self.author != "data":
            out["author"] = self.author
        if self.part:
            out["part"] = self.part
        if self.trains:
            out["trains"] = True
        if self.ids is not None:
            out["ids"] = list(self.ids)
        if self.notes:
            out["notes"] = {k: list(v) for k, v in self.notes.items()}
        if self.stop:
            out["stop"] = self.stop
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Piece:
        """The inverse of ``to_dict``."""
        ids = data.get("ids")
        notes = {k: tuple(v) for k, v in data.get("notes", {}).items()}
        return cls(**{**data, "ids": None if ids is None else tuple(ids), "notes": notes})


@dataclass(frozen=True)
class Record:
    """One row of data.

    Args:
        id: Unique in its data set.
        pieces: What was said, in order.
        fields: Anything else the row carries (a reference answer, a label, a tensor), by name.
        notes: Numbers computed once for the whole row.
        group: Rows of one group (the rollouts of one prompt) share it; empty means a group of its own.
        origin: The data set or source it came from.
    """

    id: str
    pieces: tuple[Piece, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)
    group: str = ""
    origin: str = ""

    def without_answer(self) -> Record:
        """The prompt: everything before the first piece that trains."""
        pieces: list[Piece] = []
        for piece in self.pieces:
            if piece.trains:
                break
            pieces.append(piece)
        return replace(self, pieces=tuple(pieces))

    def trained(self) -> Iterator[Piece]:
        """The pieces that train, in order."""
        return (p for p in self.pieces if p.trains)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; defaults are left out."""
        out: dict[str, Any] = {"id": self.id, "pieces": [p.to_dict() for p in self.pieces]}
        for name in ("fields", "notes", "group", "origin"):
            value = getattr(self, name)
            if value:
                out[name] = dict(value) if isinstance(value, Mapping) else value
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """The inverse of ``to_dict``."""
        return cls(**{**data, "pieces": tuple(Piece.from_dict(p) for p in data["pieces"])})
