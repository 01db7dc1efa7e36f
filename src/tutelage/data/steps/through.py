"""Through: steps that read a row as a view shows it, and write on the row as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...core.errors import DataError
from ...core.record import Record
from ...core.workspace import Workspace
from .ask import with_reference


@dataclass(frozen=True)
class Through:
    """What a step writes behind the prompt that a view shows, put behind the row's own prompt.

    So a model can answer with a hint that the row does not hold: the answer's ids and notes are kept, the hint is gone.

    Args:
        view: ``Record -> Record``; it may change what does not train.
        step: The step; its rows keep the id of the row they come from, as id or as group.
    """

    view: Callable[[Record], Record]
    step: Any

    @property
    def reads(self) -> str:
        """What the step reads."""
        return self.step.reads

    def slots(self) -> frozenset[str]:
        """The model slots whose weights the rows depend on."""
        return self.step.slots() if hasattr(self.step, "slots") else frozenset()

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        """The step's rows with their own prompts.

        Raises:
            DataError: A row that comes from none of those that went in.
        """
        seen: dict[str, Record] = {}

        def shown() -> Iterator[Record]:
            for record in records:
                # the data's own answer is what a view may tell, before the step drops it
                seen[record.id] = record = replace(record, fields=with_reference(record))
                yield self.view(record)

        for row in self.step(shown(), ws):
            source = seen.get(row.id) or seen.get(row.group)
            if source is None:
                raise DataError(
                    f"record {row.id!r}",
                    got="a row that a step made of none of those it was given",
                    expected="the id of its source as its id or group",
                    remedy="Let steps such as Ask make rows of one prompt each.",
                )
            yield replace(row, pieces=(*source.without_answer().pieces, *row.trained()))
