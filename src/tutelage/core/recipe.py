"""Recipes: a named composition of stages, and the facts on its card."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from .errors import SettingError, unknown
from .schedule import Progress, walk
from .term import Part, Update
from .workspace import Workspace


@dataclass(frozen=True)
class Generate:
    """Run transforms over a data set and store what comes out; interrupted, it goes on where it was.

    Args:
        name: The stage's name.
        into: The data set that is written.
        steps: Transforms, in order.
        over: The data set that is read.
    """

    name: str
    into: str
    steps: tuple[Any, ...]
    over: str = "train"


@dataclass(frozen=True)
class Train:
    """Optimise.

    Args:
        name: The stage's name; its settings are ``[train]`` with those of ``[train.NAME]`` on top.
        source: Where records come from.
        updates: What moves, in order, each step.
        voices: Voices by name, besides the model slots.
        parts: Modules trained beside the student, by slot.
        views: Other renderings of a record, by the name that voices ``see``: ``Record -> Record``; pieces that train
            stay as they are.
        alarms: Asked after each step with its means; what they return is said.
    """

    name: str
    source: Any
    updates: tuple[Update, ...]
    voices: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    views: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    alarms: tuple[Callable[[Progress, Any, Mapping[str, float]], tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        """Refuse a memory that follows a mean which nothing in the stage measures: it would stand still, unnoticed."""
        parts = [part for _, part in walk(self)]
        means = [n for u in self.updates for n in (*(t.name for t in u.objective), *(n for n, _ in u.watch))]
        means += [n for part in parts for n in getattr(part, "measures", ())]
        for part in parts:
            follows = getattr(part, "follows", ())
            for name in (follows,) if isinstance(follows, str) else follows:
                if name not in means:
                    raise unknown(f"{type(part).__name__} in stage {self.name!r}, mean", name, means)


@dataclass(frozen=True)
class Change:
    """Put another model into a slot: surgery, a copy, a fit.

    Args:
        name: The stage's name.
        into: The slot.
        by: ``Workspace -> model``.
    """

    name: str
    into: str
    by: Callable[[Workspace], Any]


@dataclass(frozen=True)
class Evaluate:
    """Measure what is there now, under a name in the results.

    Args:
        name: The stage's name.
        systems: By name, the steps that turn held-out prompts into answers, ``records -> records``; none means the
            student as it is, compared with the teacher.
        metrics: What is computed of a system's rows, by name: ``rows -> JSON-ready``.
    """

    name: str
    systems: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    metrics: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Repeat:
    """Stages, several times; stops early when ``until`` says so."""

    name: str
    stages: tuple[Stage, ...]
    times: int
    until: Callable[[Workspace], bool] | None = None


Stage = Union[Generate, Train, Change, Evaluate, Repeat]


@dataclass(frozen=True)
class Recipe:
    """Stages, in order.

    Args:
        stages: What is done.
        asked: How a record is put to the student, ``Record -> Record``, where its prompts differ from the data's
            (a task prefix); None means as it is. Evaluation asks it so, and the model card says it.
    """

    stages: tuple[Stage, ...]
    asked: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        names = [s.name for s in self.stages]
        if len(set(names)) < len(names):
            raise SettingError(
                "Recipe",
                got=f"stages {names}",
                expected="a different name for each stage",
                remedy="Rename one of them.",
            )


@dataclass(frozen=True)
class Card:
    """The facts of a recipe.

    Args:
        name: File name, function name, slug with ``_`` for ``-``.
        family: The group it is listed under.
        paper: Where it was published.
        formula: The objective in one line.
        differs: Numbered differences from the paper; empty means none known.
        axes: Where it stands on the field's axes, by axis.
        summary: The first sentence of its docstring.
        arguments: Documentation of each argument.
        limits: Relations to other recipes; each is a test.
    """

    name: str
    family: str
    paper: str
    formula: str
    differs: tuple[str, ...] = ()
    axes: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[str, ...] = ()


def recipe(
    *, paper: str, family: str, formula: str, differs: tuple[str, ...] = (), axes: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Recipe]], Callable[..., Recipe]]:
    """Mark a function as a recipe and attach its card; the docstring supplies the rest."""

    def mark(build: Callable[..., Recipe]) -> Callable[..., Recipe]:
        sections = docstring_sections(inspect.getdoc(build) or "")

        @functools.wraps(build)
        def checked(**arguments: Any) -> Recipe:
            return build(**arguments)

        checked.card = Card(  # type: ignore[attr-defined]
            build.__name__,
            family,
            paper,
            formula,
            differs,
            dict(axes or {}),
            summary=sections["summary"][0] if sections["summary"] else "",
            arguments=dict(_named(sections["Args"])),
            limits=tuple(sections["Limits"]),
        )
        return checked

    return mark


def docstring_sections(text: str) -> dict[str, list[str]]:
    """The entries of a docstring's sections, continuation lines joined; the text before them is ``summary``."""
    sections: dict[str, list[str]] = {"summary": [], "Args": [], "Limits": []}
    current, fresh = "summary", True
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.rstrip(":") in sections and stripped.endswith(":"):
            current, fresh = stripped[:-1], True
        elif not stripped:
            fresh = True
        elif fresh or (current != "summary" and len(line) - len(line.lstrip()) <= 4):
            sections[current].append(stripped)
            fresh = False
        else:
            sections[current][-1] += " " + stripped
    return sections


def _named(entries: list[str]) -> list[tuple[str, str]]:
    return [(name.strip(), text.strip()) for name, _, text in (entry.partition(":") for entry in entries)]
