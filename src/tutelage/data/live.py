"""Sources with a memory: rounds that are generated while training, and replay of what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch

from ..core.errors import SettingError
from ..core.record import Record
from ..core.schedule import Memory, Progress, Schedule, value_at
from ..core.workspace import Workspace
from .ahead import Pending, engines_of
from .collate import by_group
from .pipeline import reads_of, run_steps
from .source import Corpus, Source, coin_generator


@dataclass(eq=False, init=False)
class Live(Source, Memory):
    """A chain of steps run again each round, on prompts drawn like a corpus.

    A round is the ``size`` prompts of a global batch; each process runs the chain on its own slots. Draws of a round
    are seeded under the path (stage, round). A group that comes out fills a slot, in order; a step that reads ``whole``
    sees this process's part of the round.

    Where the models that write have engines that work ahead (``rollouts.ahead``), the next round is written while this
    one trains, with the weights from before this round's first step: it is one round old when it is trained on. It is
    part of the state that is saved, so that a run that goes on trains on the same rows.

    Args:
        *steps: The chain.
        prompts: A data set's name, or a source.
        repeat: Copies of each prompt, ``<id>#<k>``, a group named by the prompt's id.
        reuse: Optimiser steps that use a round.
    """

    steps: tuple[Any, ...]
    prompts: str | Source = "prompts"
    repeat: int = 1
    reuse: int = 1

    def __init__(self, *steps: Any, prompts: str | Source = "prompts", repeat: int = 1, reuse: int = 1) -> None:
        for name, value in (("repeat", repeat), ("reuse", reuse)):
            if value < 1:
                raise SettingError(f"Live.{name}", got=str(value), expected="at least 1", remedy="Change this setting.")
        for step in steps:
            reads_of(step)
        self.steps, self.prompts, self.repeat, self.reuse = steps, prompts, repeat, reuse
        self.reset()

    def reset(self) -> None:
        """Forget the round."""
        self._key: list[Any] = []
        self._round: list[list[Record]] = []
        self._ahead: dict[str, Pending[list[list[Record]]]] = {}

    def take(self, progress: Progress, ws: Workspace, size: int, slots: Sequence[int]) -> list[list[Record]]:
        """The round's rows, generated at the round's first step."""
        number = progress.step // self.reuse
        key, held = [progress.stage, number, size], self._key[3:]
        if self._key[:3] != key or not set(slots) <= set(held):
            ready = self._ahead.pop(progress.stage, None)
            if ready is not None and ready.key == [*key, *slots]:
                self._round = ready.result()
            else:
                self._round = self._run(progress, number, ws, size, slots)
            self._key, held = [*key, *slots], list(slots)
            self._begin(progress, number + 1, ws, size, slots)
        place = {slot: number for number, slot in enumerate(held)}
        return [list(self._round[place[slot]]) for slot in slots]

    def _begin(self, progress: Progress, number: int, ws: Workspace, size: int, slots: Sequence[int]) -> None:
        """Have the next round written, where engines work ahead and it will be trained on."""
        engines = engines_of(self.steps, ws)
        if not engines or number * self.reuse >= progress.num_steps:
            return
        for model in ws.models.values():
            if getattr(model, "engine", None) in engines:
                model.engine.follow(model)
        key = [progress.stage, number, size, *slots]
        self._ahead[progress.stage] = Pending(key, lambda: self._run(progress, number, ws, size, slots), engines)

    def _run(
        self, progress: Progress, number: int, ws: Workspace, size: int, slots: Sequence[int]
    ) -> list[list[Record]]:
        source = Corpus(self.prompts) if isinstance(self.prompts, str) else self.prompts
        at = Progress(progress.stage, number, -(-progress.num_steps // self.reuse))
        # all slots are drawn on every process, so that a prompt drawn twice gets the same two names everywhere
        everything = _distinct(source.take(at, ws, size, range(size)))
        rows = [copy for slot in slots for row in everything[slot] for copy in self._copies(row)]
        out: list[list[Record]] = [[] for _ in slots]
        done = run_steps(self.steps, rows, ws.within(progress.stage, number))
        for place, group in enumerate(by_group(list(done))):
            out[min(place, len(out) - 1)].extend(group)
        return out

    def _copies(self, row: Record) -> list[Record]:
        if self.repeat == 1:
            return [row]
        return [replace(row, id=f"{row.id}#{k}", group=row.id) for k in range(self.repeat)]

    def state_dict(self) -> dict[str, Any]:
        """The round, and the next one if it is being written, as JSON-ready records."""
        state: dict[str, Any] = {"key": list(self._key), "round": _dump(self._round)}
        # one that failed is written again, with the weights with which the run goes on
        made = {stage: (each.key, each.kept()) for stage, each in self._ahead.items()}
        ahead = {stage: {"key": key, "round": _dump(rows)} for stage, (key, rows) in made.items() if rows is not None}
        return state | ({"ahead": ahead} if ahead else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved round."""
        self._key, self._round = list(state["key"]), _load(state["round"])
        saved = {stage: (list(each["key"]), _load(each["round"])) for stage, each in state.get("ahead", {}).items()}
        self._ahead = {stage: Pending(key, lambda rows=rows: rows) for stage, (key, rows) in saved.items()}

    def joined(self, states: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """The parts of the round as one, from which any number of processes takes its slots."""
        keys = [state["key"] for state in states]
        if any(key[:3] != keys[0][:3] for key in keys):
            return states[0]
        slots = [slot for key in keys for slot in key[3:]]
        return {"key": [*keys[0][:3], *slots], "round": [group for state in states for group in state["round"]]}


@dataclass(eq=False)
class Replay(Source, Memory):
    """A source whose past rows come back: each slot is new, or with probability ``share`` one from the memory.

    The draws depend on seed, stage, step and slot; a slot's group comes from what this process held before the step.

    Args:
        source: Gives the new rows, which enter the memory.
        capacity: Groups of rows that the memory holds; the oldest leave first.
        share: The probability of an old one, in [0, 1], or a schedule.
    """

    source: Source
    capacity: int
    share: float | Schedule = 0.5

    def __post_init__(self) -> None:
        bad_share = not callable(self.share) and not 0 <= self.share <= 1
        if self.capacity < 1 or bad_share:
            raise SettingError(
                "Replay",
                got=f"capacity={self.capacity}, share={self.share}",
                expected="a capacity of 1 or more and a share in [0, 1]",
                remedy="Change these settings.",
            )
        self.reset()

    def reset(self) -> None:
        """Empty the memory."""
        self._past: list[list[Record]] = []

    def take(self, progress: Progress, ws: Workspace, size: int, slots: Sequence[int]) -> list[list[Record]]:
        """New and old groups by the coin of each slot; an empty memory gives new ones only."""
        coins = torch.rand(size, 2, dtype=torch.float64, generator=coin_generator("replay", progress, ws)).tolist()
        share = value_at(self.share, progress)
        past = list(self._past)
        old = {slot for slot in slots if past and coins[slot][0] < share}
        fresh = [slot for slot in slots if slot not in old]
        new = dict(zip(fresh, self.source.take(progress, ws, size, fresh), strict=True)) if fresh else {}
        self._past = [*past, *(group for group in new.values() if group)][-self.capacity :]
        return [list(past[int(coins[s][1] * len(past))] if s in old else new[s]) for s in slots]

    def state_dict(self) -> dict[str, Any]:
        """The memory, as JSON-ready records."""
        return {"past": _dump(self._past)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved memory."""
        self._past = _load(state["past"])

    def joined(self, states: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """What all processes held, oldest of each first."""
        return {"past": [group for groups in zip_longest(*(s["past"] for s in states)) for group in groups if group]}


def _distinct(groups: list[list[Record]]) -> list[list[Record]]:
    """The same groups; one drawn again (a round longer than what is left of an epoch) gets names of its own."""
    seen: dict[str, int] = {}
    out = []
    for group in groups:
        again = max((seen.get(row.id, 0) for row in group), default=0)
        mark = f"~{again}" if again else ""
        out.append([replace(r, id=r.id + mark, group=r.group and r.group + mark) for r in group])
        for row in group:
            seen[row.id] = again + 1
    return out


def _dump(groups: Sequence[Sequence[Record]]) -> list[list[dict[str, Any]]]:
    return [[row.to_dict() for row in group] for group in groups]


def _load(groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[Record]]:
    return [[Record.from_dict(row) for row in group] for group in groups]
