"""Scores: log-probabilities over categories that exist only for the units being worked on.

``Lazy`` is hidden states and a ``Head``; a ``[U, V]`` tensor is never built. Work goes in two steps: ``held(index)``
does the matrix product once for a chunk of units, ``at(rows)`` of what it returns normalises a few rows of it, small
enough to stay in the processor's cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

Rows = slice
FEW = 16  # rows up to which a processor multiplies the other way round


def product(a: Tensor, b: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """``a @ b`` summed and given in ``dtype``, into ``out`` if given.

    On an accelerator half-precision inputs stay as they are (its matrix units add in float32); a processor multiplies
    them as ``dtype``.
    """
    if a.is_cuda and a.dtype != dtype and a.dtype == b.dtype:
        return torch.mm(a, b, out_dtype=dtype) if out is None else torch.mm(a, b, out_dtype=dtype, out=out)
    if out is None and not a.is_cuda and len(a) <= FEW and dtype == torch.float32 and not torch.is_grad_enabled():
        return few_rows(a.to(dtype), b.to(dtype))
    return torch.mm(a.to(dtype), b.to(dtype)) if out is None else torch.mm(a.to(dtype), b.to(dtype), out=out)


def few_rows(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` for a few rows ``a``, as ``(b^T a^T)^T``: a processor then reads b once instead of copying it."""
    return torch.mm(b.T, a.contiguous().T).T.contiguous()


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b`` in the type of ``total``: rounding each chunk's product before adding would bias the sum."""
    if a.is_cuda and a.dtype != total.dtype and a.dtype == b.dtype:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))


@dataclass(frozen=True, eq=False)
class Head:
    """A linear map to categories: ``logits = cap * tanh(scale * (h W^T + b) / cap)``.

    Args:
        weight: Float[C D].
        bias: Float[C] or None.
        scale: Multiplies the logits (Cohere's ``logit_scale``, the inverse of Granite's ``logits_scaling``).
        cap: Soft cap of the logits (Gemma 2), or None.
        size: How many of the first categories are real; ids beyond it have probability 0.
        low: Low-rank pairs ``((A Float[r D], B Float[C r], factor), ...)`` added to the weight (LoRA on the head).
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    size: int | None = None
    low: tuple[tuple[Tensor, Tensor, float], ...] = ()

    @property
    def num_categories(self) -> int:
        """The number of real categories."""
        return self.weight.shape[0] if self.size is None else self.size

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor a gradient may reach, in the order of ``with_tensors``."""
        pairs = [t for a, b, _ in self.low for t in (a, b)]
        return (self.weight, *([] if self.bias is None else [self.bias]), *pairs)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Head:
        """The same head over other tensors."""
        rest = list(tensors)
        weight = rest.pop(0)
        bias = None if self.bias is None else rest.pop(0)
        low = tuple((rest.pop(0), rest.pop(0), factor) for _, _, factor in self.low)
        return replace(self, weight=weight, bias=bias, low=low)

    def raw(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """``h W^T + b`` for the real categories, in float32 at least: Float[k C], into ``out`` if given.

        Logits of half-precision inputs are float32, because logits rounded to bfloat16 put gradients off by several
        percent while the loss hardly moves.
        """
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        out = product(hidden, self.weight[: self.num_categories].T, dtype, out)
        hidden = hidden.to(dtype)
        if self.bias is not None:
            out += self.bias[: self.num_categories].to(dtype)
        for a, b, factor in self.low:
            out += (hidden @ a.to(dtype).T) @ b[: self.num_categories].to(dtype).T * factor
        return out

    def squash(self, raw: Tensor) -> Tensor:
        """Apply scale and cap."""
        if self.scale != 1.0:
            raw = raw * self.scale
        return raw if self.cap is None else self.cap * torch.tanh(raw / self.cap)


class Scores(ABC):
    """Log-probabilities over C categories for U units, on demand.

    ``swept`` is True where ``at`` is too costly for all units at once, so that the loss node asks tile by tile although
    no gradient flows.
    """

    num_categories: int
    swept: ClassVar[bool] = False

    @abstractmethod
    def __len__(self) -> int:
        """The number of units."""

    @abstractmethod
    def held(self, index: slice | Tensor) -> Scores:
        """The same scores for some units, with the costly part done: ``at`` of it is cheap."""

    @abstractmethod
    def at(self, rows: Rows) -> Tensor:
        """Log-probabilities Float[k C] of a range of units."""

    def logits(self, rows: Rows) -> Tensor:
        """Log-probabilities up to a constant a unit: Float[k C]. Not to be written to."""
        return self.at(rows)

    def top(self, rows: Rows, k: int) -> tuple[Tensor, Tensor]:
        """The k largest log-probabilities of a range of units, and their ids: Float[k K], Int[k K]."""
        found = self.at(rows).topk(min(k, self.num_categories), dim=-1)
        return found.values, found.indices

    def leaves(self) -> tuple[Lazy, ...]:
        """The ``Lazy`` scores inside."""
        return ()

    def with_leaves(self, held: Chunk) -> Scores:
        """The same tree over what is held of a chunk, whose rows count from the chunk's first unit."""
        return held.of(self)


class Wrapped(Scores):
    """Scores worked out of others, lazy where those are: a subclass says which, how to rebuild itself, and ``at``."""

    @property
    @abstractmethod
    def below(self) -> tuple[Scores, ...]:
        """The scores it is made of, over the same units."""

    @abstractmethod
    def over(self, below: Sequence[Scores]) -> Scores:
        """The same, made of others."""

    @property
    def swept(self) -> bool:  # type: ignore[override]
        """Whether one of those below is."""
        return any(scores.swept for scores in self.below)

    def __len__(self) -> int:
        return len(self.below[0])

    def held(self, index: slice | Tensor) -> Scores:
        return self.over([scores.held(index) for scores in self.below])

    def leaves(self) -> tuple[Lazy, ...]:
        return tuple(leaf for scores in self.below for leaf in scores.leaves())

    def with_leaves(self, held: Chunk) -> Scores:
        return self.over([scores.with_leaves(held) for scores in self.below])


class Chunk(dict[int, Scores]):
    """What is held of a chunk of units, by ``id`` of the scores; each is held once, when first asked for.

    Args:
        index: Int[k], the chunk's units.
    """

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.index = index

    def of(self, scores: Scores) -> Scores:
        """The scores of the chunk's units."""
        if id(scores) not in self:
            with torch.no_grad():
                self[id(scores)] = scores.held(self.index)
        return self[id(scores)]


@dataclass(frozen=True, eq=False)
class Lazy(Scores):
    """Hidden states Float[U D] and a head."""

    hidden: Tensor
    head: Head

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.head.num_categories

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def held(self, index: slice | Tensor) -> Scores:
        return Held(self.head.raw(self.hidden[index]), self.head)

    def at(self, rows: Rows) -> Tensor:
        return self.held(rows).at(slice(None))

    def leaves(self) -> tuple[Lazy, ...]:
        return (self,)

    def with_leaves(self, held: Chunk) -> Scores:
        return held[id(self)]


class Held(Scores):
    """Raw logits of a chunk; ``at`` normalises a few rows of them.

    ``leaf`` (set by the loss node) stands in for the rows of the current tile, so a gradient can be read off them.
    """

    def __init__(self, raw: Tensor, head: Head) -> None:
        self.raw, self.head = raw, head
        self.leaf: Tensor | None = None

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.raw.shape[1]

    def __len__(self) -> int:
        return self.raw.shape[0]

    def held(self, index: slice | Tensor) -> Scores:
        return Held(self.raw[index], self.head)

    def logits(self, rows: Rows) -> Tensor:
        return self.head.squash(self.raw[rows] if self.leaf is None else self.leaf)

    def at(self, rows: Rows) -> Tensor:
        return self.logits(rows).log_softmax(-1)

    def top(self, rows: Rows, k: int) -> tuple[Tensor, Tensor]:
        logits = self.logits(rows)
        found = logits.topk(min(k, self.num_categories), dim=-1)
        return found.values - logits.logsumexp(-1, keepdim=True), found.indices


@dataclass(frozen=True, eq=False)
class Dense(Scores):
    """Log-probabilities that already exist: Float[U C]."""

    log_probs: Tensor

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.log_probs.shape[1]

    def __len__(self) -> int:
        return self.log_probs.shape[0]

    def held(self, index: slice | Tensor) -> Scores:
        return Dense(self.log_probs[index])

    def at(self, rows: Rows) -> Tensor:
        return self.log_probs[rows]


@dataclass(frozen=True, eq=False)
class Kept(Scores):
    """The k most probable categories of each unit and, exactly, the mass of the rest.

    Args:
        ids: Int[U K], distinct within a row.
        log_probs: Float[U K].
        num_categories: C, the size of the whole vocabulary.

    The mass of the rest is one number: nothing says how it is spread, so ``at`` spreads it evenly. Objectives that may
    not invent that must read ``Top`` supports, which keep the rest as one bucket.
    """

    ids: Tensor
    log_probs: Tensor
    num_categories: int
    swept: ClassVar[bool] = True

    def __len__(self) -> int:
        return self.ids.shape[0]

    def held(self, index: slice | Tensor) -> Scores:
        return Kept(self.ids[index], self.log_probs[index], self.num_categories)

    def at(self, rows: Rows) -> Tensor:
        ids, kept = self.ids[rows].long(), self.log_probs[rows]
        others = self.num_categories - ids.shape[1]
        fill = log_rest(kept) - torch.log(torch.tensor(float(max(others, 1))))
        out = fill.unsqueeze(1).expand(-1, self.num_categories).clone()
        return out.scatter(1, ids, kept)

    def top(self, rows: Rows, k: int) -> tuple[Tensor, Tensor]:
        if k > self.ids.shape[1]:
            return super().top(rows, k)
        found = self.log_probs[rows].topk(k, dim=-1)
        return found.values, self.ids[rows].long().gather(-1, found.indices)


def log_rest(log_probs: Tensor) -> Tensor:
    """``log(1 - sum exp)`` over the last axis, stable and never above 0; -inf when nothing is left: Float[...].

    Rounding can put the kept mass a hair above 1; the rest is then 0, not negative.
    """
    mass = log_probs.logsumexp(-1)
    inside = mass < 0
    safe = torch.where(inside, mass, torch.full_like(mass, -1.0))
    # log(1 - e^m): two forms, each exact on its side of log 1/2
    rest = torch.where(safe > -0.6931471805599453, torch.log(-torch.expm1(safe)), torch.log1p(-torch.exp(safe)))
    return torch.where(inside, rest, torch.full_like(rest, -torch.inf))
