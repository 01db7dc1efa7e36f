"""What the model adapters and signals receive: views, units and notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .errors import NeedError
from .record import Record


@dataclass(frozen=True)
class View:
    """A record batch as one voice reads it.

    Args:
        inputs: Model inputs by name. For causal models ``input_ids`` Int[B T], ``position_ids`` Int[B T] and
            ``attention_mask`` Int[B T] (1 is a real token) or, for packed rows, Bool[B 1 T T].
        at: Int[U]: for each unit, the position in the flattened B*T grid whose output predicts it.
        real: Int[P]: for each of the units ``real``, its own position in the grid; None where nothing says it.
        row: Int[P], their records.
    """

    inputs: Mapping[str, Tensor]
    at: Tensor
    real: Tensor | None = None
    row: Tensor | None = None

    def to(self, device: torch.device) -> View:
        """The same view on a device."""
        real, row = (None if t is None else t.to(device) for t in (self.real, self.row))
        return View({k: v.to(device) for k, v in self.inputs.items()}, self.at.to(device), real, row)


@dataclass(frozen=True)
class Units:
    """A flat list of judged things, and the row each sits in.

    Args:
        row: Int[U], the record of the batch.
        time: Int[U], the place among the row's units, from 0.
        target: Int[U] or None, the category the data names (the next token's id).
        part_of: By the name of a coarser unit list, Int[U]: the unit there that each is part of, -1 for none.
    """

    row: Tensor
    time: Tensor
    target: Tensor | None = None
    part_of: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.row.shape[0])

    def to(self, device: torch.device) -> Units:
        """The same units on a device."""
        target = None if self.target is None else self.target.to(device)
        parts = {name: home.to(device) for name, home in self.part_of.items()}
        return Units(self.row.to(device), self.time.to(device), target, parts)


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Args:
        records: The rows, in order; a row without a trained position is still a row.
        units: Unit lists by name; ``tokens`` are the trained positions, ``real`` every token of the view ``main``,
            ``rows`` the records.
        views: One view a rendering; ``main`` is the record itself.
        notes: Numbers computed once: Float[U] for tokens under ``tokens.NAME``, Float[R] under ``rows.NAME``.
        group: Int[R], rows of one group share a number.
    """

    records: tuple[Record, ...]
    units: Mapping[str, Units]
    views: Mapping[str, View]
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    group: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """The number of records."""
        return len(self.records)

    def groups(self, who: str) -> tuple[Tensor, int]:
        """Each record's group, Int[R] from 0 on, and how many there are.

        Raises:
            NeedError: The records have no groups; ``who`` needs them.
        """
        if self.group is None:
            raise NeedError(
                who,
                got="a batch without groups",
                expected="records that share a group",
                remedy="Write rollouts with Ask(times=...), or give the rows a group with the step Group.",
            )
        found, home = torch.unique(self.group, return_inverse=True)
        return home, len(found)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return replace(
            self,
            units={k: u.to(device) for k, u in self.units.items()},
            views={k: v.to(device) for k, v in self.views.items()},
            notes={k: n.to(device) for k, n in self.notes.items()},
            group=None if self.group is None else self.group.to(device),
        )
