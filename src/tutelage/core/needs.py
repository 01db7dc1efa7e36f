"""What a recipe needs of each voice, compared with what the voice gives before weights load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import NeedError
from .recipe import Recipe, Repeat, Stage, Train
from .schedule import walk
from .signal import Read, Signal

STATES = frozenset({"hidden", "states", "attention", "pooled"})
"""What an encoder in this process gives: states and attention, but no next token."""

WHITE_BOX = STATES | {"next", "sample", "text"}
"""What a causal model in this process gives: also scores of every category, and rollouts."""

SCORES = frozenset({"next", "sample", "text"})
LOG_PROBS = frozenset({"next.top", "next.target", "sample", "text"})
"""What a server gives that returns the log-probabilities of the token that is there and of the few most probable."""

TEXT = frozenset({"text"})
"""What a server gives that returns text alone."""


def needs(recipe: Recipe) -> dict[str, frozenset[str]]:
    """Needs by voice name: those of ``WHITE_BOX``, ``next.top``, ``next.target`` or ``weights``."""
    found: dict[str, set[str]] = {}
    for stage in stages(recipe.stages):
        for _, part in walk(stage):
            if isinstance(part, Signal):
                for read in part.own_reads():
                    found.setdefault(read.who, set()).add(_need(read, part))
            asks: Any = getattr(part, "asks", None)
            if asks is not None:
                for who, what in asks():
                    found.setdefault(who, set()).add(what)
        for update in stage.updates if isinstance(stage, Train) else ():
            for slot in update.moves:
                found.setdefault(slot, set()).add("weights")
    return {who: frozenset(n) for who, n in sorted(found.items())}


def check(recipe: Recipe, gives: Mapping[str, Iterable[str]]) -> None:
    """Refuse a voice that cannot give what is read of it.

    Raises:
        NeedError: With the voice, what it gives and what is missing.
    """
    for who, wanted in needs(recipe).items():
        if who not in gives:
            continue
        given = set(gives[who])
        if "next" in given:
            given |= {"next.top", "next.target"}
        missing = wanted - given - {"weights"}
        if missing:
            encoder = "An encoder predicts no next token: use causal models, or a recipe over states and classes."
            other = "Use a teacher in this process or a cache of that kind, or a recipe that needs less."
            raise NeedError(
                f"voice {who!r}",
                got=f"one that gives {', '.join(sorted(given)) or 'nothing'}",
                expected=", ".join(sorted(missing)),
                remedy=encoder if given == STATES else other,
            )


def stages(some: Iterable[Stage]) -> Iterable[Stage]:
    """Every stage, repeated ones once."""
    for stage in some:
        if isinstance(stage, Repeat):
            yield from stages(stage.stages)
        else:
            yield stage


def _need(read: Read, part: Signal) -> str:
    if read.what != "next":
        return read.what.split(".")[0]
    if getattr(part, "of_target", False) and not read.through:
        return "next.target"
    on: Any = getattr(part, "on", None)
    if read.through:  # other logits give the rest another mass, which only a whole distribution tells
        return "next"
    # categories that the student chooses may be any: only a whole distribution has them all
    return "next.top" if getattr(on, "k", None) is not None and on.of == "teacher" else "next"
