"""The embedded engine: batches in this process, one after the other or a few at a time in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

from ...core.errors import SettingError
from ...core.record import Record
from ...core.workspace import Workspace
from ..pipeline import reads_of, run_steps

Batches = Iterable[Sequence[Record]]


class Engine(Protocol):
    """Runs a chain of steps over batches of records."""

    def __call__(self, steps: Sequence[Any], batches: Batches, ws: Workspace) -> Iterator[list[Record]]:
        """What comes out of each batch, in the order of the batches, as it becomes known.

        A batch is run as a whole in one place, and draws are seeded by records, so where it runs changes nothing. What
        it cost is in the workspace's ledger when its rows are given.
        """
        ...


@dataclass(frozen=True)
class Local:
    """This process.

    Args:
        num_workers: Batches at once, >= 1, each in a thread. More than one pays where steps wait (for a server, a
            sandbox); steps that ask a model in this process take turns, as it is one at a time that they may.
    """

    num_workers: int = 1

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise SettingError(
                "Local.num_workers", got=str(self.num_workers), expected="at least 1", remedy="1 uses no threads."
            )

    def __call__(self, steps: Sequence[Any], batches: Batches, ws: Workspace) -> Iterator[list[Record]]:
        """The rows of each batch, in order; no more batches are drawn than are being worked on."""
        if self.num_workers == 1:
            for batch in batches:
                yield list(run_steps(steps, batch, ws))
            return
        waiting: deque[Future[list[Record]]] = deque()
        turn = Lock()
        steps = [_InTurn(step, turn) if _asks_here(step, ws) else step for step in steps]
        with ThreadPoolExecutor(self.num_workers) as pool:
            try:
                for batch in batches:
                    waiting.append(pool.submit(lambda rows=batch: list(run_steps(steps, rows, ws))))
                    if len(waiting) == self.num_workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for job in waiting:
                    job.cancel()


@dataclass(frozen=True)
class _InTurn:
    """A step that one thread at a time runs; what comes before it runs outside of its turn."""

    step: Any
    turn: Any

    @property
    def reads(self) -> str:
        return reads_of(self.step)

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        rows = list(records)
        with self.turn:
            done = list(self.step(iter(rows), ws))
        yield from done


def _asks_here(step: Any, ws: Workspace) -> bool:
    """Whether a step asks a model in this process, whose layers and modes its callers change for a while."""
    slots = step.slots() if hasattr(step, "slots") else ()
    return any(slot in ws.models and not getattr(ws.models[slot], "far", False) for slot in slots)
