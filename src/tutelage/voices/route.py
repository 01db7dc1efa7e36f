"""Routes: each record is read by the voice that its tag names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.batch import Batch, Units, View
from ..core.context import Context
from ..core.errors import DataError, NeedError, SettingError, unknown
from ..core.scores import Scores


@dataclass(frozen=True, eq=False)
class Routed(Scores):
    """Scores of several voices over disjoint units; lazy, and without a gradient.

    Args:
        parts: Scores of each voice over its own units, in the units' order.
        home: Int[U], the part of each unit.
    """

    parts: tuple[Scores, ...]
    home: Tensor
    swept: ClassVar[bool] = True

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.parts[0].num_categories

    def __len__(self) -> int:
        return len(self.home)

    def held(self, index: slice | Tensor) -> Scores:
        home, parts = self.home[index], []
        for number, part in enumerate(self.parts):
            place = (self.home == number).cumsum(0) - 1
            parts.append(part.held(place[index][home == number]))
        return Routed(tuple(parts), home)

    def at(self, rows: slice) -> Tensor:
        start, stop, _ = rows.indices(len(self))
        home, out = self.home[start:stop], None
        for number, part in enumerate(self.parts):
            mine = home == number
            if not bool(mine.any()):
                continue
            before = int((self.home[:start] == number).sum())
            said = part.at(slice(before, before + int(mine.sum())))
            if out is None:
                out = said.new_empty(stop - start, self.num_categories)
            out[mine] = said
        return torch.empty(0, self.num_categories) if out is None else out


@dataclass(frozen=True)
class Route:
    """A voice that lets each record be read by one of several, by a field of the record.

    Each voice reads the rows of its tags alone, body and head. What it says is a target: it carries no gradient.

    Args:
        by: The field whose text is the tag.
        voices: Pairs of a tag and the voice, or model slot, for it; one voice may serve several tags.
    """

    by: str
    voices: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        tags = [tag for tag, _ in self.voices]
        if not tags or len(set(tags)) < len(tags):
            raise SettingError(
                "Route.voices", got=f"tags {tags}", expected="each tag once", remedy="Give one voice a tag."
            )

    def slots(self) -> frozenset[str]:
        """None: what it says is a target."""
        return frozenset()

    def asks(self) -> tuple[tuple[str, str], ...]:
        """What it needs of whom."""
        return tuple((who, "next") for who in dict.fromkeys(v for _, v in self.voices))

    def upstream(self) -> Mapping[str, frozenset[str]]:
        """What it will ask of other voices."""
        return {who: frozenset({"next"}) for _, who in self.voices}

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        """The scores of ``next``, each record's by its own voice.

        Raises:
            DataError: A record without the field, or with a tag that no voice is for.
            NeedError: Another field is wanted, or the vocabularies differ.
        """
        if wants - {"next"}:
            raise NeedError(
                f"route by {self.by!r}",
                got=f"a read of {', '.join(sorted(wants))}",
                expected="a read of 'next'",
                remedy="Route scores; features of different models have no common axis.",
            )
        chosen = [self._voice(record) for record in ctx.batch.records]
        units, parts = ctx.batch.units["tokens"], []
        home = torch.zeros(len(units), dtype=torch.long, device=units.row.device)
        for who in dict.fromkeys(chosen):
            rows = torch.tensor([i for i, name in enumerate(chosen) if name == who], device=units.row.device)
            mine = torch.isin(units.row, rows)
            if bool(mine.any()):
                home[mine] = len(parts)
                parts.append(self._ask(who, ctx, rows, mine))
        sizes = {p.num_categories for p in parts}
        if len(sizes) > 1:
            raise NeedError(
                f"route by {self.by!r}",
                got=f"vocabularies of {sorted(sizes)}",
                expected="one vocabulary",
                remedy="Route between models of one tokenizer.",
            )
        return {"next": Routed(tuple(parts), home) if parts else ctx.say(chosen[0])["next"]}

    def _voice(self, record: Any) -> str:
        known = dict(self.voices)
        if self.by not in record.fields:
            raise DataError(
                f"record {record.id!r}",
                got=f"fields {', '.join(sorted(record.fields)) or 'none'}",
                expected=f"a field {self.by!r} that names its voice",
                remedy="Tag each row of the data.",
            )
        tag = str(record.fields[self.by])
        if tag not in known:
            raise unknown(f"record {record.id!r}, field {self.by!r}", tag, known, "Name a voice for it, or drop it.")
        return known[tag]

    @staticmethod
    def _ask(who: str, ctx: Context, rows: Tensor, mine: Tensor) -> Scores:
        some = narrowed(ctx.batch, rows, mine)
        inner = Context(some, ctx.voices, {who: frozenset({"next"})}, frozenset(), ctx.workspace, ctx.progress)
        with torch.no_grad():
            return inner.say(who)["next"]


def narrowed(batch: Batch, rows: Tensor, mine: Tensor) -> Batch:
    """The batch with some of its records, and in every view only the grid rows that hold them.

    Args:
        batch: The batch.
        rows: Int[k], the records, in order.
        mine: Bool[U], which of ``tokens`` are theirs.
    """
    tokens = batch.units["tokens"]
    target = None if tokens.target is None else tokens.target[mine]
    place = torch.searchsorted(rows, tokens.row[mine])
    units = {
        "tokens": Units(place, tokens.time[mine], target),
        "rows": Units(torch.arange(len(rows), device=rows.device), torch.zeros_like(rows)),
    }
    keep = {"tokens": mine, "rows": rows}
    notes = {k: n[keep[k.partition(".")[0]]] for k, n in batch.notes.items() if k.partition(".")[0] in keep}
    views = {name: _cut(view, mine) for name, view in batch.views.items() if len(view.at) == len(mine)}
    records = tuple(batch.records[i] for i in rows.tolist())
    return Batch(records, units, views, notes, None if batch.group is None else batch.group[rows])


def _cut(view: View, mine: Tensor) -> View:
    width = view.inputs["input_ids"].shape[1]
    at = view.at[mine]
    grid = torch.unique(at // width)
    inputs = {name: value[grid] for name, value in view.inputs.items()}
    return replace(view, inputs=inputs, at=torch.searchsorted(grid, at // width) * width + at % width)
