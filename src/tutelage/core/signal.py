"""Signals: one value a unit. A loss, a weight, a reward, an advantage and a metric are one type, read in many places.

A signal is a frozen dataclass whose fields hold the signals and reads below it, so a tree of them prints, compares,
hashes and can be walked. The algebra is ``+ - * **`` and unary minus; anything else is a named part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Union

import torch
from torch import Tensor

from .closed import Closed, Times

if TYPE_CHECKING:
    from .context import Asks


class Couples(IntEnum):
    """What a signal's value at one unit may depend on besides that unit."""

    NOTHING = 0
    ROW = 1
    GROUP = 2
    BATCH = 3


Lens = Callable[[Any, "Asks"], Any]  # a field (scores or features) -> a field


@dataclass(frozen=True)
class Read:
    """What to read of whom.

    Args:
        who: A voice or a model slot.
        what: A field that it says: ``next`` (scores of the next token), ``hidden.3``, ``pooled`` ...
        through: Lenses, applied in order.
        over: The unit list its rows stand for.
    """

    who: str = "student"
    what: str = "next"
    through: tuple[Lens, ...] = ()
    over: str = "tokens"


class Signal(ABC):
    """``Asks -> Float[U]`` over one unit list. Subclasses are frozen dataclasses."""

    couples: ClassVar[Couples] = Couples.NOTHING

    @abstractmethod
    def __call__(self, ctx: Asks) -> Tensor:
        """The value of each unit that ``ctx`` stands for."""

    def closed(self) -> Closed | None:
        """Its closed form, if it has one: faster than autograd through ``__call__``, and the same."""
        return None

    @property
    def over(self) -> str:
        """The unit list of the values; empty if the same for every unit of any list."""
        found = [r.over for r in self.own_reads()] + [s.over for s in self.children()]
        named = list(dict.fromkeys(name for name in found if name))
        finer = [name for name in named if name != "rows"]
        return "" if not named else "tokens" if "tokens" in named else (finer or named)[0]

    def parts(self) -> Iterator[Any]:
        """The values of the dataclass fields, tuples opened."""
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            yield from value if isinstance(value, tuple) else (value,)

    def children(self) -> tuple[Signal, ...]:
        """The signals directly below."""
        return tuple(p for p in self.parts() if isinstance(p, Signal))

    def own_reads(self) -> tuple[Read, ...]:
        """The reads directly below."""
        return tuple(p for p in self.parts() if isinstance(p, Read))

    def reads(self) -> frozenset[Read]:
        """Every read of the tree."""
        return frozenset(self.own_reads()).union(*(c.reads() for c in self.children()))

    def __add__(self, other: SignalLike) -> Signal:
        return Sum((self, as_signal(other)))

    def __radd__(self, other: SignalLike) -> Signal:
        return Sum((as_signal(other), self))

    def __sub__(self, other: SignalLike) -> Signal:
        return Sum((self, -as_signal(other)))

    def __rsub__(self, other: SignalLike) -> Signal:
        return Sum((as_signal(other), -self))

    def __mul__(self, other: SignalLike) -> Signal:
        return Product((self, as_signal(other)))

    def __rmul__(self, other: SignalLike) -> Signal:
        return Product((as_signal(other), self))

    def __neg__(self) -> Signal:
        return Product((Constant(-1.0), self))

    def __pow__(self, exponent: float) -> Signal:
        return Power(self, float(exponent))


SignalLike = Union[Signal, float, int]


def as_signal(value: SignalLike) -> Signal:
    """A signal, or a constant as one."""
    return value if isinstance(value, Signal) else Constant(float(value))


@dataclass(frozen=True)
class Constant(Signal):
    """The same number for every unit."""

    value: float = 1.0

    def __call__(self, ctx: Asks) -> Tensor:
        return ctx.full(self.value)


@dataclass(frozen=True)
class Sum(Signal):
    """The sum of its terms; a value a row is spread over the row's units."""

    terms: tuple[Signal, ...]

    def __call__(self, ctx: Asks) -> Tensor:
        total = ctx.spread(self.terms[0], self.over)
        for term in self.terms[1:]:
            total = total + ctx.spread(term, self.over)
        return total


@dataclass(frozen=True)
class Product(Signal):
    """The product of its factors; a value a row is spread over the row's units."""

    factors: tuple[Signal, ...]

    def __call__(self, ctx: Asks) -> Tensor:
        total = ctx.spread(self.factors[0], self.over)
        for factor in self.factors[1:]:
            total = total * ctx.spread(factor, self.over)
        return total

    def closed(self) -> Closed | None:
        """That of the one factor that is not still, if the others are."""
        moving = [f for f in self.factors if not still(f)]
        closed = moving[0].closed() if len(moving) == 1 else None
        if closed is None:
            return None
        others = tuple(f for f in self.factors if f is not moving[0])
        return replace(closed, slope=Times(closed.slope, others)) if others else closed


@dataclass(frozen=True)
class Power(Signal):
    """``base ** exponent``."""

    base: Signal
    exponent: float

    def __call__(self, ctx: Asks) -> Tensor:
        return ctx(self.base) ** self.exponent


@dataclass(frozen=True)
class Still(Signal):
    """A signal's value without its gradient."""

    of: Signal

    def __call__(self, ctx: Asks) -> Tensor:
        return ctx.still(self.of)


@dataclass(frozen=True)
class Noted(Signal):
    """A number computed earlier and written on the records.

    Args:
        name: The note's name.
        over: ``tokens`` for one number a trained token, ``rows`` for one a record.
    """

    name: str
    unit: str = field(default="tokens")

    @property
    def over(self) -> str:
        return self.unit

    def __call__(self, ctx: Asks) -> Tensor:
        return ctx.note(self.name, self.unit)


@dataclass(frozen=True)
class Uniform(Signal):
    """1 for every unit: the weight that changes nothing."""

    def __call__(self, ctx: Asks) -> Tensor:
        return ctx.full(1.0)


uniform = Uniform()


def still(signal: Signal) -> bool:
    """Whether no gradient can pass it, whatever is below."""
    if isinstance(signal, (Still, Noted, Constant, Uniform)):
        return True
    return isinstance(signal, (Sum, Product, Power)) and all(still(child) for child in signal.children())


def full(value: float, size: int, like: Tensor | None) -> Tensor:
    """A constant vector on the device of ``like``."""
    device = None if like is None else like.device
    return torch.full((size,), value, device=device)
