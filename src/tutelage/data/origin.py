"""Origins: which model had a part in a row, and the refusal of rows whose origins do not fit together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..core.errors import DataError
from ..core.record import Record
from ..core.schedule import Progress
from ..core.workspace import Workspace
from .source import Source
from .store import model_key


@dataclass(frozen=True)
class Signed:
    """Writes on each row whose work it is: content hashes of a slot's weights and tokenizer, in a field of that name.

    The signature travels with the row, into files and other runs, so that ``SameOrigin`` can compare it there.

    Args:
        slot: The model slot; the field has its name.
    """

    slot: str
    reads: ClassVar[str] = "row"

    def slots(self) -> frozenset[str]:
        """The model slot that the rows are signed by."""
        return frozenset({self.slot})

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows, signed."""
        mark = signature(self.slot, ws)
        for record in records:
            yield replace(record, fields={**record.fields, self.slot: dict(mark)})


@dataclass(frozen=True)
class SameOrigin:
    """A step that lets rows pass if data sets, and the model in a slot now, are all of one origin.

    Args:
        slot: The slot by which ``Signed`` signed the rows.
        data: The data sets that are compared.
        now: Compare them with the model that is in the slot now as well.
        strict: Refuse; otherwise say so once and go on.
    """

    slot: str
    data: tuple[str, ...]
    now: bool = False
    strict: bool = True
    reads: ClassVar[str] = "row"

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The rows as they are.

        Raises:
            DataError: The origins differ, or a row has none.
        """
        self.check(ws)
        yield from records

    def check(self, ws: Workspace) -> None:
        """Compare, before anything is drawn, written or trained.

        Raises:
            DataError: The origins differ, or a row has none.
        """
        found = {f"data set {name!r}": self._origins(ws.data[name]) for name in self.data}
        if self.now:
            found[f"the model {self.slot!r}"] = {_told(signature(self.slot, ws))}
        origins = set().union(*found.values())
        if len(origins) <= 1 and "nobody" not in origins:
            return
        error = DataError(
            f"origin of {', '.join(found)}",
            got="; ".join(f"{where}: {' and '.join(sorted(who)) or 'nobody'}" for where, who in found.items()),
            expected=f"one and the same {self.slot}",
            remedy=f"Make all with one {self.slot}: what one teaches and another scores pulls to neither. To go on "
            "all the same, set strict=false.",
        )
        if self.strict:
            raise error
        warnings.warn(str(error), stacklevel=2)

    def _origins(self, rows: Sequence[Record]) -> set[str]:
        return {_told(row.fields.get(self.slot)) for row in rows}


@dataclass(frozen=True)
class Vouched(Source):
    """A source whose rows are drawn once their origin is checked.

    Args:
        source: Gives the rows.
        check: What must hold at a stage's first step.
    """

    source: Source
    check: SameOrigin

    def take(self, progress: Progress, ws: Workspace, size: int, slots: Sequence[int]) -> list[list[Record]]:
        """The source's rows."""
        if progress.step == 0:
            self.check.check(ws)
        return self.source.take(progress, ws, size, slots)


def signature(slot: str, ws: Workspace) -> dict[str, str]:
    """Content hashes of a slot's weights and tokenizer, by ``weights`` and ``tokenizer``.

    Raises:
        StoreError: The model does not say what its weights are.
    """
    return {name.removeprefix(f"{slot}'s "): value for name, value in model_key(slot, ws).items()}


def _told(mark: Any) -> str:
    if not isinstance(mark, Mapping) or not {"weights", "tokenizer"} <= set(mark):
        return "nobody"
    return f"weights {str(mark['weights'])[:12]} with tokenizer {str(mark['tokenizer'])[:12]}"
