"""Bandits: a trained part acts on each record, and learns from what the step then did there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.errors import SettingError
from ..core.schedule import Linear, Memory, Schedule, value_at
from ..core.seeds import generator
from ..core.signal import Couples, Read, Signal, Still
from ..core.term import Term
from .scale import Floor


class Seen(Memory):
    """Values of a step by record; another step begins empty, so nothing lasts."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.at, self.values = -1, dict[str, Tensor]()


@dataclass(frozen=True, eq=False)
class AtFirst(Signal):
    """A signal's value when it was first asked for in an optimiser step: Float[R], without gradient.

    Updates of one step share its records, so a later one reads what was there before an earlier one moved anything:
    ``AtFirst(x) - x`` is how much x fell.

    Args:
        of: A signal over rows.
    """

    of: Signal
    memory: Seen = field(default_factory=Seen, init=False, repr=False)
    couples: ClassVar[Couples] = Couples.ROW

    @property
    def over(self) -> str:
        return "rows"

    def __call__(self, ctx: Asks) -> Tensor:
        ids = [record.id for record in ctx.batch.records]
        if self.memory.at != ctx.progress.step:
            self.memory.reset()
            self.memory.at = ctx.progress.step
        if not all(i in self.memory.values for i in ids):
            now = ctx.still(self.of).expand(len(ids))
            self.memory.values.update(zip(ids, now.unbind(0), strict=True))
        return torch.stack([self.memory.values[i] for i in ids])

    def children(self) -> tuple[Signal, ...]:
        return ()  # nothing is swept for a value that is remembered

    def reads(self) -> frozenset[Read]:
        """What it reads when it is first asked."""
        return self.of.reads()


@dataclass(frozen=True)
class Choice:
    """What a Gaussian policy chooses for each record: ``z ~ N(m(s), spread^2)``, a share ``sigmoid(z)``.

    Noise belongs to the run's seed, the step and the record, so it is the same however a round is split.

    Args:
        part: The slot of the policy m.
        of: The state s: signals over rows.
        spread: A number or a schedule, > 0.
        warm_share: In [0, 1): the share is 1/2 before this part of the stage is done.
    """

    part: str
    of: tuple[Signal, ...]
    spread: float | Schedule = 0.5
    warm_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warm_share < 1 or (not callable(self.spread) and not self.spread > 0):
            raise SettingError(
                "Choice",
                got=f"spread={self.spread}, warm_share={self.warm_share}",
                expected="a spread > 0 and a warm_share in [0, 1)",
                remedy="0.5 and 0.05 are usual.",
            )

    def mean(self, ctx: Any) -> Tensor:
        """m(s) Float[R], with the policy's gradient."""
        rows = len(ctx.batch.units["rows"])
        module = ctx.workspace.models[self.part]
        x = torch.stack([ctx.still(signal).expand(rows) for signal in self.of], 1)
        return module(x.to(next(module.parameters()).dtype))

    def noise(self, ctx: Any) -> tuple[Tensor, float]:
        """What is added to the mean, over the spread, Float[R]; and the spread."""
        names = (getattr(ctx.workspace, "seed", 0), ctx.progress.stage, ctx.progress.step, "choice")
        drawn = [torch.randn((), generator=generator(*names, record.id)) for record in ctx.batch.records]
        return torch.stack(drawn).to(ctx.batch.units["rows"].row.device), value_at(self.spread, ctx.progress)


@dataclass(frozen=True)
class Chosen(Signal):
    """The share that a policy draws for each record, in (0, 1), without gradient: Float[R]."""

    choice: Choice
    couples: ClassVar[Couples] = Couples.ROW

    @property
    def over(self) -> str:
        return "rows"

    def __call__(self, ctx: Asks) -> Tensor:
        noise, spread = self.choice.noise(ctx)
        with torch.no_grad():
            mean = self.choice.mean(ctx)
            share = torch.sigmoid(mean + spread * noise.to(mean.dtype))
        return torch.full_like(share, 0.5) if ctx.progress.share < self.choice.warm_share else share

    def children(self) -> tuple[Signal, ...]:
        return tuple(Still(signal) for signal in self.choice.of)


@dataclass(frozen=True)
class Surprise(Signal):
    """``-log N(z; m(s), spread^2)`` of what was chosen, with the gradient of the policy: Float[R]."""

    choice: Choice
    couples: ClassVar[Couples] = Couples.ROW

    @property
    def over(self) -> str:
        return "rows"

    def __call__(self, ctx: Asks) -> Tensor:
        noise, spread = self.choice.noise(ctx)
        mean = self.choice.mean(ctx)
        away = (mean.detach() + spread * noise.to(mean.dtype) - mean) / spread
        return away.square() / 2 + math.log(spread * math.sqrt(2 * math.pi))

    def children(self) -> tuple[Signal, ...]:
        return tuple(Still(signal) for signal in self.choice.of)


@dataclass(frozen=True)
class BatchNorm(Signal):
    """``(x - mean) / (std + epsilon)`` over a batch's units, the deviation a sample's: Float[U], 0 where all are equal.

    Args:
        of: The signal.
        epsilon: Keeps tiny deviations from blowing up.
    """

    of: Signal
    epsilon: float = 1e-6
    couples: ClassVar[Couples] = Couples.BATCH

    def __call__(self, ctx: Asks) -> Tensor:
        x = ctx(self.of)
        if len(x) < 2 or bool((x == x[0]).all()):
            return torch.zeros_like(x)
        return (x - x.mean()) / (x.std() + self.epsilon)


def policy_terms(choice: Choice, reward: Signal) -> tuple[Term, Term]:
    """REINFORCE of a reward over rows, normalised over the round: likelier where it is above the mean, less so below.

    It is one loss, ``-A log N(z)``, in two terms, because weights are not negative.
    """
    advantage, warm = BatchNorm(reward), choice.warm_share
    on = Linear(0.0, 1.0, warm, min(1.0, warm + 1e-6)) if warm else 1.0
    more = Term("policy", Surprise(choice), Floor(advantage), on)
    return more, Term("policy less", -Surprise(choice), Floor(-advantage), on)
