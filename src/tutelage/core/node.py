"""The loss node: readouts of lazy scores, tile by tile, with gradients formed on the way.

One sweep serves every case. For a chunk of units the head's product is formed once; the elementwise work goes over
tiles of a few rows that stay in the processor's cache; the gradient with respect to the raw logits overwrites them in
place and is multiplied back when the chunk is done. Nothing of size units x categories exists, and nothing but the
gradients themselves is kept for the backward pass.

* ``total``: a sum with known coefficients. Its gradient is formed in the forward pass.
* ``readouts``: values a unit, for functions that couple units. The backward pass sweeps again with the coefficients
  that the outer function gave; about a third more head work, and exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .scores import Chunk, Head, Held, Lazy, Scores
from .signal import Read, Signal

if TYPE_CHECKING:
    from .context import Context

# Elements of a tile's logits (1 MB in float32) and of a chunk's (50 MB): measured best on processors with 1 MB of
# second-level cache a core; the result does not depend on them.
TILE_ELEMENTS = 1 << 18
CHUNK_ELEMENTS = 12 << 20


@dataclass(frozen=True, eq=False)
class Sweep:
    """What one sweep works on: signals over one unit list, and the lazy scores below them."""

    ctx: Context
    over: str
    signals: tuple[Signal, ...]
    leaves: tuple[Lazy, ...]
    width: int

    @classmethod
    def of(cls, ctx: Context, over: str, signals: Sequence[Signal]) -> Sweep:
        """Find the leaves, each once however many reads share it."""
        reads: set[Read] = set().union(*(s.reads() for s in signals))
        found: dict[int, Lazy] = {}
        width = 1
        for read in sorted(reads, key=repr):
            scores = ctx.field(read)
            if isinstance(scores, Scores):
                found.update({id(leaf): leaf for leaf in scores.leaves()})
                width = max(width, scores.num_categories, *(leaf.num_categories for leaf in scores.leaves()))
        return cls(ctx, over, tuple(signals), tuple(found.values()), width)

    @property
    def num_units(self) -> int:
        """The length of the unit list."""
        return len(self.ctx.units(self.over))

    def moving(self) -> tuple[Lazy, ...]:
        """The leaves that a gradient reaches."""
        return tuple(leaf for leaf in self.leaves if any(t.requires_grad for t in tensors_of(leaf)))

    def sizes(self) -> tuple[int, int]:
        """Rows of a tile and of a chunk."""
        tile = max(1, TILE_ELEMENTS // self.width)
        return tile, max(tile, CHUNK_ELEMENTS // self.width)


def readouts(ctx: Context, over: str, signals: Sequence[Signal]) -> list[Tensor]:
    """Values Float[U] of each signal; differentiable where something below them moves."""
    sweep = Sweep.of(ctx, over, signals)
    moving = sweep.moving()
    if moving and torch.is_grad_enabled():
        inputs = [t for leaf in moving for t in tensors_of(leaf)]
        return list(_Readouts.apply(sweep, *inputs).unbind(0))
    return list(run(sweep, None)[0].unbind(0))


def total(ctx: Context, over: str, signals: Sequence[Signal], coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """``sum_{s,u} c_{su} signal_s(u)`` with fixed coefficients Float[S U], and the values Float[S U] without gradient.

    Units whose coefficients are all 0 are skipped and their values are 0.
    """
    sweep = Sweep.of(ctx, over, signals)
    moving = sweep.moving()
    inputs = [t for leaf in moving for t in tensors_of(leaf)]
    box: list[Tensor] = []
    if inputs and torch.is_grad_enabled():
        value = _Total.apply(sweep, coefficients, box, *inputs)
        return value, box[0]
    values = run(sweep, None, coefficients)[0]
    return (values * coefficients).sum(), values


class _Total(torch.autograd.Function):
    """The sum whose gradient is formed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, sweep: Sweep, coefficients: Tensor, box: list[Tensor], *inputs: Tensor) -> Tensor:
        values, grads = run(sweep, coefficients, coefficients)
        box.append(values)
        ctx.grads = grads
        return (values * coefficients).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        if ctx.grads is None:
            raise RuntimeError("the gradient formed in the forward pass was already used; run the step again")
        grads, ctx.grads = ctx.grads, None
        return None, None, None, *(None if g is None else g.mul_(upstream) for g in grads)


class _Readouts(torch.autograd.Function):
    """Values a unit; the backward pass sweeps again."""

    @staticmethod
    def forward(ctx: Any, sweep: Sweep, *inputs: Tensor) -> Tensor:
        ctx.sweep = sweep
        return run(sweep, None)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        return None, *run(ctx.sweep, upstream.contiguous(), upstream)[1]


def run(sweep: Sweep, coefficients: Tensor | None, skip: Tensor | None = None) -> tuple[Tensor, list[Tensor | None]]:
    """One pass over the units.

    Args:
        sweep: What to evaluate.
        coefficients: Float[S U] to form gradients of the weighted sum, or None for values alone.
        skip: Float[S U]; units where it is 0 for every signal are left out.

    Returns:
        Values Float[S U] and, for every tensor of every moving leaf, its gradient or None.
    """
    with torch.autocast(device_type=_device(sweep).type, enabled=False):
        moving = sweep.moving() if coefficients is not None else ()
        sums = [_Gradient(leaf) for leaf in moving]
        dtype = max((_dtype(leaf) for leaf in sweep.leaves), key=lambda d: torch.finfo(d).bits, default=torch.float32)
        values = torch.zeros(len(sweep.signals), sweep.num_units, dtype=dtype, device=_device(sweep))
        tile_rows, chunk_rows = sweep.sizes()
        for chunk in _kept(sweep, skip).split(chunk_rows):
            if chunk.numel() == 0:
                continue
            held = Chunk(chunk)
            held.update({id(leaf): _held(leaf, chunk) for leaf in sweep.leaves})
            for start in range(0, len(chunk), tile_rows):
                rows = slice(start, min(start + tile_rows, len(chunk)))
                _tile(sweep, chunk[rows], rows, held, moving, coefficients, values)
            for total_of in sums:
                total_of.add(chunk, _own(held, total_of.leaf).raw)
        return values, [g for total_of in sums for g in total_of.result()]


def tensors_of(leaf: Lazy) -> tuple[Tensor, ...]:
    """The tensors that a gradient of a leaf may reach."""
    return (leaf.hidden, *leaf.head.tensors())


def _tile(
    sweep: Sweep,
    index: Tensor,
    rows: slice,
    held: Chunk,
    moving: tuple[Lazy, ...],
    coefficients: Tensor | None,
    values: Tensor,
) -> None:
    from .context import Tile

    tile = Tile(sweep.ctx, sweep.over, index, held, rows)
    if coefficients is None:
        with torch.no_grad():
            for i, signal in enumerate(sweep.signals):
                values[i, index] = tile(signal).to(values.dtype)
        return
    inputs = []
    for leaf in moving:
        inputs.append(_own(held, leaf).raw[rows].detach().requires_grad_())
        _own(held, leaf).leaf = inputs[-1]
    with torch.enable_grad():
        said = [tile(signal) for signal in sweep.signals]
        weighted = torch.stack(
            [(v * c[index].to(v.dtype)).sum() for v, c in zip(said, coefficients, strict=True)]
        ).sum()
    for i, value in enumerate(said):
        values[i, index] = value.detach().to(values.dtype)
    grads = torch.autograd.grad(weighted, inputs, allow_unused=True) if weighted.requires_grad else [None] * len(inputs)
    for leaf, grad in zip(moving, grads, strict=True):
        raw = _own(held, leaf).raw[rows]
        raw.zero_() if grad is None else raw.copy_(grad)
        _own(held, leaf).leaf = None


class _Gradient:
    """Sums of a leaf's gradients over chunks, the head's in float32 at least."""

    def __init__(self, leaf: Lazy) -> None:
        self.leaf = leaf
        self.dtype = _dtype(leaf)
        self.sums = [torch.zeros_like(t, dtype=self.dtype) if t.requires_grad else None for t in tensors_of(leaf)]

    def add(self, chunk: Tensor, grad: Tensor) -> None:
        """Add what the gradient ``grad`` Float[k C] of the raw logits sends to each tensor."""
        head, size, sums = self.leaf.head, self.leaf.num_categories, iter(self.sums)
        hidden = self.leaf.hidden.detach()[chunk].to(self.dtype)
        to_hidden, to_weight = next(sums), next(sums)
        back = None if to_hidden is None else grad @ head.weight.detach()[:size].to(self.dtype)
        if to_weight is not None:
            to_weight[:size].addmm_(grad.T, hidden)
        to_bias = None if head.bias is None else next(sums)
        if to_bias is not None:
            to_bias[:size] += grad.sum(0)
        for a, b, factor in head.low:
            narrow = grad @ b.detach()[:size].to(self.dtype) * factor
            to_a, to_b = next(sums), next(sums)
            if to_a is not None:
                to_a.addmm_(narrow.T, hidden)
            if to_b is not None:
                to_b[:size].addmm_(grad.T, hidden @ a.detach().to(self.dtype).T, alpha=factor)
            if back is not None:
                back.addmm_(narrow, a.detach().to(self.dtype))
        if to_hidden is not None and back is not None:
            to_hidden[chunk] = back

    def result(self) -> list[Tensor | None]:
        """Gradients in the tensors' own types."""
        tensors = tensors_of(self.leaf)
        return [None if s is None else s.to(t.dtype) for s, t in zip(self.sums, tensors, strict=True)]


def _own(held: Chunk, leaf: Lazy) -> Held:
    found = held[id(leaf)]
    assert isinstance(found, Held)
    return found


def _held(leaf: Lazy, chunk: Tensor) -> Held:
    head = leaf.head.with_tensors([t.detach() for t in leaf.head.tensors()])
    with torch.no_grad():
        return Held(head.raw(leaf.hidden.detach()[chunk]), head)


def _kept(sweep: Sweep, skip: Tensor | None) -> Tensor:
    if skip is None:
        return torch.arange(sweep.num_units, device=_device(sweep))
    return (skip != 0).any(0).nonzero().squeeze(1)


def _dtype(leaf: Lazy) -> torch.dtype:
    return torch.promote_types(leaf.hidden.dtype, torch.float32)


def _device(sweep: Sweep) -> torch.device:
    return sweep.leaves[0].hidden.device if sweep.leaves else sweep.ctx.units(sweep.over).row.device


__all__ = ["CHUNK_ELEMENTS", "TILE_ELEMENTS", "Head", "Sweep", "readouts", "run", "tensors_of", "total"]
