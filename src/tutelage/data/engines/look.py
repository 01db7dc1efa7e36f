"""Filling a teacher cache on an engine: workers ask the teacher, and the process that holds the cache writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ...core.record import Record
from ...core.workspace import Workspace
from ..cached import Asked, Cache, Form
from ..cached.answer import batches_of, told
from ..cached.head import write
from ..cached.plain import States
from .local import Engine, Local


@dataclass(frozen=True)
class Look:
    """What a slot says of rows of tokens, in the form that a cache keeps; all records are one forward pass.

    Args:
        slot: The teacher's slot.
        form: What is kept of a position.
        weights: The teacher's content hash, under which draws are made.
    """

    slot: str
    form: Form
    weights: str
    reads: ClassVar[str] = "row"

    def slots(self) -> frozenset[str]:
        """The slot whose weights the rows depend on."""
        return frozenset({self.slot})

    @torch.no_grad()
    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The records, each with what is kept of it."""
        some = list(records)
        rows = [Asked(record.fields["tokens"], record.fields["places"]) for record in some]
        model = ws.models[self.slot]

        def ask(view: Any) -> Any:
            with ws.ledger.timed(self.slot, "predict", tokens=int(view.inputs["input_ids"].numel())):
                return model.predict(view, frozenset({"next"}))["next"]

        for record, (_, kept) in zip(some, told(self.form, self.weights, rows, ask, model.device)[1], strict=True):
            yield replace(record, fields={**record.fields, "kept": kept})


def looked(
    cache: Cache, slot: str, rows: Sequence[Asked], ws: Workspace, engine: Engine | None = None
) -> Iterator[int]:
    """Ask a slot about rows that are not there and store what it says, batch by batch; yields how many are done.

    The cache is the same, byte for byte, on any engine.
    """
    rows = [row for row in rows if cache.find(row) is None]
    head = getattr(ws.models[slot], "head", None)
    if rows and isinstance(cache.form, States) and head is not None:
        write(cache.folder, head)
    batches = [[_record(row) for row in some] for some in batches_of(rows)]
    done = 0
    for found in (engine or Local())((Look(slot, cache.form, cache.key.get("weights", "")),), batches, ws):
        cache.add([(Asked(r.fields["tokens"], r.fields["places"]), r.fields["kept"]) for r in found])
        done += len(found)
        yield done


def _record(row: Asked) -> Record:
    return Record(str(row.whole), (), {"tokens": row.tokens, "places": row.places})
