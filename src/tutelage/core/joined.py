"""A round's micro-batches, those of all processes, as one batch: for weights that relate units across it.

What a weight reads of the voices was computed micro-batch by micro-batch; only the values, a number a unit, are joined.
So the share of units that is kept, and which, depends neither on how the round was split nor on who held which part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .batch import Batch, Units
from .context import Context, Field, full
from .errors import NeedError
from .signal import Couples, Read, Signal


class Peers(Protocol):
    """The processes of a run, as one of them sees them."""

    @property
    def rank(self) -> int:
        """This one's number."""
        ...

    @property
    def world(self) -> int:
        """How many there are."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in order."""
        ...


@dataclass(frozen=True)
class Alone:
    """A run of one process."""

    rank: int = 0
    world: int = 1

    def gather(self, value: Any) -> list[Any]:
        """The one value."""
        return [value]


class Joined(Context):
    """The contexts of a round's micro-batches, asked as one: without gradients, and only for numbers a unit.

    All processes make it and ask the same signals of it, in the same order.

    Args:
        contexts: One a micro-batch of this process, in order; may be none where there are several processes.
        peers: The processes.
        like: A context on the same device and at the same step.
    """

    def __init__(self, contexts: Sequence[Context], peers: Peers | None = None, like: Context | None = None) -> None:
        like = like or contexts[0]
        self.contexts, self.peers = tuple(contexts), peers or Alone()
        self._like = like.batch.units["tokens"].row
        parts = self.peers.gather([_bare(c.batch) for c in contexts])
        before = [b for part in parts[: self.peers.rank] for b in part]
        # where this process's units begin among those of all
        self._start = {name: sum(len(b.units[name]) for b in before) for name in like.batch.units}
        whole = joined([b for part in parts for b in part]).to(self._like.device)
        super().__init__(whole, {}, {}, frozenset(), like.workspace, like.progress)

    @property
    def quiet(self) -> Context:
        """Itself: nothing here has a gradient."""
        return self

    def __call__(self, signal: Signal) -> Tensor:
        if signal not in self._memo:
            with torch.no_grad():
                self._memo[signal] = signal(self) if couples(signal) else self._each(signal)
        return self._memo[signal]

    def field(self, read: Read) -> Field:
        """Refused: scores exist for the units of a micro-batch alone."""
        raise NeedError(
            f"read of {read.who!r} by a signal that relates a whole round",
            got="a direct read",
            expected="a signal that gives a number a unit",
            remedy="Put the read into a signal of its own, and relate its values.",
        )

    def split(self, values: Tensor, over: str) -> list[Tensor]:
        """Values of the whole round, those of this process's micro-batches."""
        sizes = [len(c.units(over)) for c in self.contexts]
        return list(values[self._start[over] :][: sum(sizes)].split(sizes))

    def _each(self, signal: Signal) -> Tensor:
        own = [c.still(signal) for c in self.contexts]
        if signal.over:
            own = [v.expand(len(c.units(signal.over))) for v, c in zip(own, self.contexts, strict=True)]
        values = [v.to(self._like.device) for part in self.peers.gather([v.cpu() for v in own]) for v in part]
        if signal.over == "":
            return values[0] if values[0].dim() == 0 else full(float(values[0][0]), 1, values[0])[0]
        return torch.cat(values)


def couples(signal: Signal) -> bool:
    """Whether a value somewhere in the tree depends on units of the whole batch."""
    return signal.couples is Couples.BATCH or any(couples(c) for c in signal.children())


def readable(signal: Signal) -> list[Signal]:
    """The largest subtrees whose values need one micro-batch alone."""
    return [signal] if not couples(signal) else [s for c in signal.children() for s in readable(c)]


def joined(batches: Sequence[Batch]) -> Batch:
    """Units, notes and groups of several batches as one; it has no views, so no model can read it.

    A group must lie within one batch.
    """
    starts = [sum(b.num_rows for b in batches[:i]) for i in range(len(batches))]
    units = {name: _units(name, batches, starts) for name in batches[0].units}
    keys = [k for k in batches[0].notes if all(k in b.notes for b in batches)]
    notes = {key: torch.cat([b.notes[key] for b in batches]) for key in keys}
    groups = [b.group for b in batches]
    group = None
    if all(g is not None for g in groups):
        group = torch.cat([g + start for g, start in zip(groups, starts, strict=True) if g is not None])
    return Batch(tuple(r for b in batches for r in b.records), units, {}, notes, group)


def _bare(batch: Batch) -> Batch:
    """What can be sent: units, notes and groups; of the records all but their texts."""
    records = tuple(replace(r, pieces=()) for r in batch.records)
    return replace(batch, records=records, views={}).to(torch.device("cpu"))


def _units(name: str, batches: Sequence[Batch], starts: Sequence[int]) -> Units:
    some = [b.units[name] for b in batches]
    targets = [u.target for u in some]
    target = torch.cat([t for t in targets if t is not None]) if all(t is not None for t in targets) else None
    row = torch.cat([u.row + start for u, start in zip(some, starts, strict=True)])
    parts = {}
    for coarse in some[0].part_of:
        sizes = [len(b.units[coarse]) for b in batches]
        moved = [
            torch.where(u.part_of[coarse] < 0, u.part_of[coarse], u.part_of[coarse] + sum(sizes[:i]))
            for i, u in enumerate(some)
        ]
        parts[coarse] = torch.cat(moved)
    return Units(row, torch.cat([u.time for u in some]), target, parts)
