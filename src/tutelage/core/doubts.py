"""What a setting cannot do here, said before training: each part knows when it stands idle.

A part says so in a method ``doubt(here) -> str``; empty where it has nothing to say. What is wrong whatever the run is
an error when the part is made, not a doubt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .recipe import Train
from .schedule import walk


@dataclass(frozen=True)
class Here:
    """What a part of a Train stage stands in.

    Args:
        steps: Optimiser steps of the stage.
        batch_size: Prompts, or rows of data, a step.
        categories: The ids that the student's head scores; None where that is not known.
        max_tokens: The longest answer that the stage's source writes; None where it writes none.
        group: Answers a prompt; None where the data says it.
    """

    steps: int
    batch_size: int
    categories: int | None = None
    max_tokens: int | None = None
    group: int | None = None


def here(stage: Train, *, steps: int, batch_size: int, categories: int | None = None) -> Here:
    """The surroundings of a stage's parts, its writer's settings read off its source."""
    asks: dict[str, Any] = {}
    for path, part in walk(stage.source):  # parents first: what writes in several goes says how long they are together
        if hasattr(part, "max_tokens") and hasattr(part, "times") and not any(path.startswith(f"{p}.") for p in asks):
            asks[path] = part
    longest = max((ask.max_tokens for ask in asks.values()), default=None)
    times = {ask.times for ask in asks.values()}
    return Here(steps, batch_size, categories, longest, times.pop() if len(times) == 1 else None)


def doubts(stage: Train, at: Here) -> Iterator[str]:
    """What the stage's parts have to say, each once, with the stage's name."""
    said: dict[str, Any] = {}
    for _, part in walk(stage):
        doubt = getattr(part, "doubt", None)
        text = doubt(at) if doubt is not None and not isinstance(part, type) else ""
        if text:
            said.setdefault(f"Stage {stage.name!r}: {text}")
    yield from said
