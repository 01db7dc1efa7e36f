"""A check: what it asks, of which pains, and how far an answer may be from right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .asked import Adapter, ByChoice, NotHere, NotOffered, Refused

DECLINED = {NotOffered: "not offered", ByChoice: "by choice", Refused: "refused", NotHere: "not on this device"}


@dataclass(frozen=True)
class Found:
    """What was measured, and what it looks like."""

    figure: float
    note: str = ""


@dataclass(frozen=True)
class Check:
    """A promise and its bound.

    Args:
        name: What must hold, in words.
        pains: Numbers of the pains that it is about.
        bound: The largest figure that passes.
        of: What the figure is.
        measure: The measurement.
    """

    name: str
    pains: tuple[int, ...]
    bound: float
    of: str
    measure: Callable[[Adapter], Found]


@dataclass(frozen=True)
class Outcome:
    """How one framework did in one check; ``figure`` is None where nothing was measured."""

    status: str
    figure: float | None
    note: str


def run(check: Check, adapter: Adapter) -> Outcome:
    """Pass or fail by the figure, or how the framework declined."""
    try:
        found = check.measure(adapter)
    except tuple(DECLINED) as declined:
        return Outcome(DECLINED[type(declined)], None, str(declined))
    status = "pass" if found.figure <= check.bound else "fail"
    return Outcome(status, found.figure, found.note)
