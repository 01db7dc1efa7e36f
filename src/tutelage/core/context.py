"""The context: asks each question once, and decides where its answer may be computed.

A signal tree is cut at its *readouts*: the largest subtrees that read lazy scores and couple nothing. Readouts are
swept over the units in tiles (``core.node``); what stands above them is small and computed on whole vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from . import node
from .batch import Batch, Units
from .errors import DataError, NeedError, unknown
from .schedule import Progress
from .scores import Chunk, Lazy, Scores
from .seeds import generator
from .signal import Couples, Read, Signal, Still, full

Field = Any  # Scores or Float[U ...]


class Voice(Protocol):
    """Anything that speaks over a batch."""

    def slots(self) -> frozenset[str]:
        """The model slots whose weights its answer depends on."""
        ...

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Field]:
        """The wanted fields; a field that it cannot give is a ``NeedError``."""
        ...


class Asks(Protocol):
    """What a signal may ask: of the whole batch (``Context``) or of a tile of it (``Tile``)."""

    def __call__(self, signal: Signal) -> Tensor: ...
    def still(self, signal: Signal) -> Tensor: ...
    def spread(self, signal: Signal, over: str) -> Tensor: ...
    def log_probs(self, read: Read) -> Tensor: ...
    def features(self, read: Read) -> Tensor: ...
    def target(self, over: str) -> Tensor: ...
    def note(self, name: str, over: str) -> Tensor: ...
    def full(self, value: float) -> Tensor: ...
    def generator(self, name: str) -> torch.Generator: ...
    @property
    def batch(self) -> Batch: ...
    @property
    def progress(self) -> Progress: ...


class Context:
    """One micro-batch and what the voices say of it.

    Args:
        batch: The micro-batch.
        voices: Voices by name.
        wants: What each voice will be asked for, so that its body runs once.
        moves: The slots whose weights get a gradient; a voice that depends on none of them runs without one.
        workspace: Models and ledger.
        progress: Where the stage stands, for schedules and draws.
    """

    def __init__(
        self,
        batch: Batch,
        voices: Mapping[str, Voice],
        wants: Mapping[str, frozenset[str]],
        moves: frozenset[str] = frozenset(),
        workspace: Any = None,
        progress: Progress | None = None,
    ) -> None:
        self.batch, self.voices, self.wants, self.moves = batch, voices, wants, moves
        self.workspace, self.progress = workspace, progress or Progress()
        self._said: dict[str, Mapping[str, Field]] = {}
        self._fields: dict[Read, Field] = {}
        self._memo: dict[Signal, Tensor] = {}
        self._settled: dict[Signal, Tensor] = {}  # values a sweep may read whole: never those that it computes
        self._quiet: Context | None = None
        self._loud: Context = self  # the context whose voices speak: itself, unless this one is quiet
        self._grad = torch.is_grad_enabled()

    # -- what the voices said -----------------------------------------------------------------------------------
    def say(self, who: str) -> Mapping[str, Field]:
        """All wanted fields of a voice; its body runs at most once."""
        if self._loud is not self:
            return self._loud.say(who)
        if who not in self._said:
            if who not in self.voices:
                raise unknown("voice", who, self.voices, "Voices are the model slots and the names in Train.voices.")
            voice = self.voices[who]
            keeps_graph = bool(voice.slots() & self.moves) and self._grad
            with torch.set_grad_enabled(keeps_graph):
                self._said[who] = voice.predict(self, self.wants.get(who, frozenset({"next"})))
        return self._said[who]

    def field(self, read: Read) -> Field:
        """What a read gives, lenses applied."""
        if self._loud is not self:
            return self._loud.field(read)
        if read not in self._fields:
            said = self.say(read.who)
            if read.what not in said:
                raise NeedError(
                    f"read of {read.who!r}",
                    got=f"fields {', '.join(sorted(said))}",
                    expected=f"a field {read.what!r}",
                    remedy="Choose an objective that reads what this voice gives, or another voice.",
                )
            value = said[read.what]
            with torch.set_grad_enabled(self._grad):
                for lens in read.through:
                    value = lens(value, self)
            self._fields[read] = value
        return self._fields[read]

    def lasting(self) -> Mapping[str, Mapping[str, Field]]:
        """What voices have said that nothing moves: it holds for another context of the same batch and step."""
        own = {w: v for w, v in self.voices.items() if w in self._said and not hasattr(v, "upstream")}
        return {w: self._said[w] for w, v in own.items() if not v.slots() & self.moves}

    def recall(self, said: Mapping[str, Mapping[str, Field]]) -> None:
        """Take over what ``lasting`` gave, so that these voices are not asked again."""
        self._said.update(said)

    def forget(self, who: Iterable[str]) -> None:
        """Drop what some voices said, because the weights behind them moved."""
        gone = frozenset(who)
        self._said = {k: v for k, v in self._said.items() if k not in gone}
        self._fields = {r: v for r, v in self._fields.items() if r.who in self._said}
        self._memo, self._settled, self._quiet = {}, {}, None

    # -- what a signal may ask ----------------------------------------------------------------------------------
    def units(self, over: str) -> Units:
        """A unit list by name."""
        if over not in self.batch.units:
            raise unknown("unit list", over, self.batch.units)
        return self.batch.units[over]

    def target(self, over: str) -> Tensor:
        """Int[U], the category that the data names."""
        target = self.units(over).target
        if target is None:
            raise NeedError(
                f"targets over {over!r}",
                got="units without targets",
                expected="a category for each unit",
                remedy="Use data with answers, or an objective that reads no targets.",
            )
        return target

    def note(self, name: str, over: str) -> Tensor:
        """A note's values; unknown names list the notes there are."""
        key = f"{over}.{name}"
        if key not in self.batch.notes:
            raise unknown(f"note over {over}", key, self.batch.notes, "A Note step writes it on the records.")
        value = self.batch.notes[key]
        if torch.isnan(value).any():
            raise DataError(
                f"note {key!r}",
                got=f"{int(torch.isnan(value).sum())} units without it",
                expected="the note on every record",
                remedy="Write it with a Note step for the whole source.",
            )
        return value

    def full(self, value: float) -> Tensor:
        return torch.tensor(value)

    def log_probs(self, read: Read) -> Tensor:
        """Log-probabilities of every unit at once; only small category sets may be asked for whole."""
        scores = self.field(read)
        return scores.at(slice(None)) if isinstance(scores, Scores) else scores

    def features(self, read: Read) -> Tensor:
        value = self.field(read)
        if isinstance(value, Scores):
            raise NeedError(
                f"features of {read.who!r}",
                got=f"scores in {read.what!r}",
                expected="a tensor",
                remedy="Compare scores with a divergence, features with a distance.",
            )
        return value

    def spread(self, signal: Signal, over: str) -> Tensor:
        return spread(self(signal), signal.over, over, self.batch.units)

    @property
    def quiet(self) -> Context:
        """The same context without gradients."""
        if self._loud is not self:
            return self
        if self._quiet is None:
            self._quiet = Context(self.batch, self.voices, self.wants, frozenset(), self.workspace, self.progress)
            self._quiet._loud = self
        return self._quiet

    def still(self, signal: Signal) -> Tensor:
        with torch.no_grad():
            return self.quiet(signal).detach()

    def generator(self, name: str) -> torch.Generator:
        """A generator for a named draw of this step, the same for every process that sees these records."""
        seed = getattr(self.workspace, "seed", 0)
        ids = "|".join(r.id for r in self.batch.records)
        return generator(seed, self.progress.stage, self.progress.step, name, ids)

    def __call__(self, signal: Signal) -> Tensor:
        if signal in self._settled:
            return self._settled[signal]
        if signal not in self._memo:
            self.prepare((signal,))
            if signal not in self._memo:
                # a sweep that asks from inside a pass without gradient must not leave a value without one behind
                with torch.set_grad_enabled(self._grad):
                    self._memo[signal] = signal(self)
        return self._memo[signal]

    # -- where an answer may be computed ------------------------------------------------------------------------
    def costly(self, signal: Signal) -> bool:
        """True if the tree below reads lazy scores and is not settled."""
        if signal in self._settled:
            return False
        fields = [self.field(r) for r in signal.own_reads()]
        own = any(isinstance(f, Scores) and (f.swept or f.leaves()) for f in fields)
        return own or any(self.costly(c) for c in signal.children())

    def local(self, signal: Signal) -> bool:
        """True if the value at a unit can be computed in a tile that holds only that unit."""
        if not self.costly(signal):
            return signal in self._settled or not self._carries_gradient(signal)
        if signal.couples > Couples.NOTHING:
            return False
        same = all(not self.costly(c) or c.over == signal.over for c in signal.children())
        return same and all(self.local(c) for c in signal.children())

    def readouts(self, signal: Signal) -> list[Signal]:
        """The largest local subtrees that read lazy scores."""
        if not self.costly(signal):
            return []
        if self.local(signal):
            return [signal]
        if isinstance(signal, Still):
            return []
        return [r for c in signal.children() for r in self.readouts(c)]

    def settle(self, signal: Signal) -> None:
        """Compute what must be known before a sweep: detached subtrees that couple units."""
        if not self.costly(signal):
            return
        if isinstance(signal, Still):
            if not self.local(signal):
                self._settled[signal] = self.still(signal.of)
            return
        for child in signal.children():
            self.settle(child)

    def prepare(self, signals: Iterable[Signal]) -> None:
        """Sweep all readouts of some signals at once, and remember their values."""
        found: dict[Signal, None] = {}
        for signal in signals:
            self.settle(signal)
            found.update(dict.fromkeys(self.readouts(signal)))
        for over in dict.fromkeys(s.over for s in found):
            some = [s for s in found if s.over == over and s not in self._memo]
            if not some:
                continue
            self._memo.update(zip(some, node.readouts(self, over, some), strict=True))

    def _carries_gradient(self, signal: Signal) -> bool:
        if isinstance(signal, Still) or not torch.is_grad_enabled():
            return False
        values = [self.field(r) for r in signal.own_reads()]
        own = any(isinstance(v, Tensor) and v.requires_grad for v in values)
        own = own or any(isinstance(p, Tensor) and p.requires_grad for p in signal.parts())
        return own or any(self._carries_gradient(c) for c in signal.children())


class Tile:
    """A few units of a context, with their log-probabilities at hand."""

    def __init__(self, ctx: Context, over: str, index: Tensor, held: Chunk, rows: slice) -> None:
        self.ctx, self.over, self.index, self.rows = ctx, over, index, rows
        self._held = held
        self._memo: dict[Signal, Tensor] = {}
        self._log_probs: dict[Read, Tensor] = {}

    @property
    def batch(self) -> Batch:
        return self.ctx.batch

    @property
    def progress(self) -> Progress:
        return self.ctx.progress

    def __call__(self, signal: Signal) -> Tensor:
        if signal not in self._memo:
            if self.ctx.costly(signal):
                self._memo[signal] = signal(self)
            else:
                self._memo[signal] = spread(self.ctx(signal), signal.over, self.over, self.batch.units, self.index)
        return self._memo[signal]

    def still(self, signal: Signal) -> Tensor:
        return self(signal).detach()

    def spread(self, signal: Signal, over: str) -> Tensor:
        return self(signal)

    def aside(self) -> Tile:
        """The same units in a tile of its own: what it remembers, others do not read."""
        return Tile(self.ctx, self.over, self.index, self._held, self.rows)

    def log_probs(self, read: Read) -> Tensor:
        if read not in self._log_probs:
            self._log_probs[read] = self.scores(read).at(self.rows)
        return self._log_probs[read]

    def scores(self, read: Read) -> Scores:
        """What is held of the chunk for a read; the tile's rows of it are ``rows``."""
        return self.ctx.field(read).with_leaves(self._held)

    def logits(self, read: Read) -> Tensor:
        """Log-probabilities up to a constant a unit, without gradient: Float[k C]."""
        return self.scores(read).logits(self.rows).detach()

    def top(self, read: Read, k: int) -> tuple[Tensor, Tensor]:
        """The k largest log-probabilities, without gradient, and their ids: Float[k K], Int[k K]."""
        log_probs, ids = self.scores(read).top(self.rows, k)
        return log_probs.detach(), ids

    def features(self, read: Read) -> Tensor:
        return self.ctx.features(read)[self.index]

    def target(self, over: str) -> Tensor:
        return self.ctx.target(over)[self.index]

    def note(self, name: str, over: str) -> Tensor:
        return spread(self.ctx.note(name, over), over, self.over, self.batch.units, self.index)

    def full(self, value: float) -> Tensor:
        return torch.full(self.index.shape, value, device=self.index.device)

    def generator(self, name: str) -> torch.Generator:
        return self.ctx.generator(name)


def spread(value: Tensor, of: str, over: str, units: Mapping[str, Units], index: Tensor | None = None) -> Tensor:
    """Values of one unit list, given to the units of another: the list itself, or one that these units are part of."""
    if value.dim() == 0 or of == "":
        return value if index is None or value.dim() == 0 else value.expand(index.shape[0])
    if of == over:
        return value if index is None else value[index]
    whole = units[over].part_of.get(of)
    home = units[over].row if of == "rows" else whole
    if home is None:
        raise NeedError(
            f"a signal over {over!r}",
            got=f"values over {of!r}",
            expected=f"values over {over!r}, rows or {', '.join(sorted(units[over].part_of)) or 'nothing else'}",
            remedy="Pool the finer signal first (RowMean, RowSum, PartSum).",
        )
    home = home if index is None else home[index]
    # what is part of nothing gets 0
    return value[home] if whole is None else value[home.clamp_min(0)].masked_fill(home < 0, 0.0)


__all__ = ["Asks", "Context", "Lazy", "Tile", "Voice", "full", "spread"]
