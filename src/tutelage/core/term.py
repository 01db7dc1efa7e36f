"""Terms, denominators, updates and tallies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .batch import Batch
from .errors import NeedError, SettingError
from .schedule import Schedule
from .signal import Signal, uniform


@dataclass(frozen=True)
class Per:
    """What a term's sum is divided by, over the whole global batch.

    * ``token``: every unit counts 1; the sum is divided by the number of units.
    * ``row``: the units of a record share 1; divided by the number of records, those without a unit included.
    * ``group``: the units of a group share 1; divided by the number of groups.

    Args:
        level: ``token``, ``row`` or ``group``.
        count: ``all`` counts every unit; ``kept`` those of weight > 0; ``weighted`` sums the weights.
    """

    level: str = "token"
    count: str = "all"

    def __call__(self, weight: Tensor, batch: Batch, over: str) -> tuple[Tensor, Tensor]:
        """Each unit's share Float[U], before its weight, and this batch's part of the denominator (float64)."""
        row = batch.units[over].row
        counted = {"all": torch.ones_like(weight), "kept": (weight > 0).to(weight.dtype), "weighted": weight}[
            self.count
        ]
        counted = counted.double()
        if self.level == "token":
            return torch.ones_like(weight), counted.sum()
        home, num = row, batch.num_rows
        if self.level == "group":
            group, num = batch.groups("per_group")
            home = group[row]
        inside = torch.zeros(num, dtype=torch.float64, device=weight.device).index_add_(0, home, counted)
        share = 1 / inside.clamp_min(torch.finfo(torch.float32).tiny)
        share = torch.where(inside > 0, share, torch.zeros_like(share))[home].to(weight.dtype)
        homes = torch.tensor(float(num), dtype=torch.float64, device=weight.device)
        return share, homes if self.count == "all" else (inside > 0).sum().double()


per_token, per_row, per_group = Per("token"), Per("row"), Per("group")


def kept(per: Per) -> Per:
    """The same level, counting only units of weight > 0."""
    return Per(per.level, "kept")


def weighted(per: Per) -> Per:
    """The same level, divided by the sum of the weights."""
    return Per(per.level, "weighted")


@dataclass(frozen=True)
class Term:
    """``scale * sum_u(weight_u * loss_u) / count``.

    Args:
        name: Its name in logs.
        loss: A signal with a gradient.
        weight: A signal >= 0, read without gradient on the whole round before it is split.
        scale: A number or a schedule; may be negative. At 0 the term is computed without gradient and logged.
        per: What the sum is divided by.
    """

    name: str
    loss: Signal
    weight: Signal = uniform
    scale: float | Schedule = 1.0
    per: Per = per_token

    def __post_init__(self) -> None:
        if not self.name:
            raise SettingError("Term", got="an empty name", expected="a name for the logs", remedy="Name the term.")

    @property
    def over(self) -> str:
        """The unit list of the loss."""
        return self.loss.over or "tokens"


@dataclass(frozen=True)
class Update:
    """What moves, by which terms.

    Args:
        objective: The terms; they add up.
        moves: The slots (models or parts) whose weights this update trains.
        every: Run in every n-th optimiser step.
        fresh: Draw a batch of its own instead of sharing the step's.
        learning_rate: Times the stage's learning rate.
        watch: Signals that are logged as means and reach schedules, by name.
    """

    objective: tuple[Term, ...]
    moves: tuple[str, ...] = ("student",)
    every: int = 1
    fresh: bool = False
    learning_rate: float = 1.0
    watch: tuple[tuple[str, Signal], ...] = ()

    def __post_init__(self) -> None:
        names = [t.name for t in self.objective] + [n for n, _ in self.watch]
        if len(set(names)) < len(names):
            raise SettingError(
                "Update", got=f"names {names}", expected="a different name for each term", remedy="Rename one of them."
            )
        if self.every < 1:
            raise SettingError(
                "Update.every", got=str(self.every), expected="a whole number >= 1", remedy="Use 1 for each step."
            )

    def doubt(self, here: Any) -> str:
        """An update that never runs."""
        if self.every <= here.steps:
            return ""
        return f"what moves {', '.join(self.moves)} each {self.every} steps never runs in {here.steps}."


@dataclass
class Tally:
    """A sum and a count; tallies add over chunks, micro-batches and processes, and only the loop divides."""

    sum: float = 0.0
    count: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.sum + other.sum, self.count + other.count)

    @property
    def mean(self) -> float:
        """The mean, nan when nothing was counted."""
        return self.sum / self.count if self.count else float("nan")


Build = Callable[..., torch.nn.Module]


@dataclass(frozen=True)
class Part:
    """A module trained beside the student (projector, gate, critic): built, saved, not exported.

    Args:
        build: A callable that makes the module.
        settings: Its arguments.
        sizes: Arguments that the run's models decide: pairs of a name and ``SLOT.ATTRIBUTE``, such as
            ``("in_features", "student.hidden_size")``.
    """

    build: Build
    settings: tuple[tuple[str, object], ...] = field(default=())
    sizes: tuple[tuple[str, str], ...] = field(default=())

    def __call__(self, models: Mapping[str, object] | None = None) -> torch.nn.Module:
        """The module, its sizes read off the models.

        Raises:
            NeedError: A slot or an attribute that is not there.
        """
        return self.build(**dict(self.settings), **{name: _size(name, of, models or {}) for name, of in self.sizes})


def _size(name: str, of: str, models: Mapping[str, object]) -> int:
    slot, _, attribute = of.rpartition(".")
    found = getattr(models.get(slot), attribute, None)
    if not isinstance(found, int):
        raise NeedError(
            f"part, {name}",
            got=f"no whole number at {of!r}; models {', '.join(sorted(models)) or 'none'}",
            expected="the size of a model of the run",
            remedy="Name a model slot and a size that it has, such as 'student.hidden_size'.",
        )
    return found
