"""The loss node: readouts of lazy scores, tile by tile, with gradients formed on the way.

One sweep serves every case. For a chunk of units the head's product is formed once, in a buffer that all chunks share;
the elementwise work goes over tiles of a few rows that stay in the processor's cache; the gradient with respect to the
raw logits overwrites them in place and is multiplied back when the chunk is done. Nothing of size units x categories
exists, and nothing but the gradients themselves is kept for the backward pass. A signal with a closed form gives its
gradient itself; any other is differentiated by autograd inside the tile.

* ``total``: a sum with known coefficients. Its gradient is formed in the forward pass.
* ``readouts``: values a unit, for functions that couple units. The backward pass sweeps again with the coefficients
  that the outer function gave; about a third more head work, and exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .closed import Closed, is_number, through_squash
from .mapped import Mapped
from .scores import Chunk, Head, Held, Lazy, Scores, add_product, product
from .signal import Read, Signal

if TYPE_CHECKING:
    from .context import Context, Tile

# Elements of a tile's logits (1 MB in float32) and of a chunk's (50 MB): measured best on processors with 1 MB of
# second-level cache a core. An accelerator takes a chunk (0.5 GB) as one tile. The result does not depend on them.
TILE_ELEMENTS = 1 << 18
CHUNK_ELEMENTS = 12 << 20
ACCELERATOR_ELEMENTS = 128 << 20


@dataclass(frozen=True, eq=False)
class Sweep:
    """What one sweep works on: signals over one unit list, and the lazy scores below them.

    ``beside`` are signals that are only read on the way, without gradient; their values follow those of the others.
    """

    ctx: Context
    over: str
    signals: tuple[Signal, ...]
    leaves: tuple[Lazy, ...]
    width: int
    beside: tuple[Signal, ...] = ()

    @classmethod
    def of(cls, ctx: Context, over: str, signals: Sequence[Signal], beside: Sequence[Signal] = ()) -> Sweep:
        """Find the leaves, each once however many reads share it."""
        reads: set[Read] = set().union(*(s.reads() for s in (*signals, *beside)))
        found: dict[int, Lazy] = {}
        width = 1
        for read in sorted(reads, key=repr):
            scores = ctx.field(read)
            if isinstance(scores, Scores):
                found.update({id(leaf): leaf for leaf in scores.leaves()})
                width = max(width, scores.num_categories, *(leaf.num_categories for leaf in scores.leaves()))
        return cls(ctx, over, tuple(signals), tuple(found.values()), width, tuple(beside))

    @property
    def num_units(self) -> int:
        """The length of the unit list."""
        return len(self.ctx.units(self.over))

    @cached_property
    def moving(self) -> tuple[Lazy, ...]:
        """The leaves that a gradient reaches."""
        return tuple(leaf for leaf in self.leaves if any(t.requires_grad for t in tensors_of(leaf)))

    @cached_property
    def closed(self) -> tuple[tuple[Closed, Lazy] | None, ...]:
        """Each signal's closed form and the leaf that it moves, where it has one."""
        return tuple(self._closed(signal) for signal in self.signals)

    def _closed(self, signal: Signal) -> tuple[Closed, Lazy] | None:
        closed = signal.closed()
        if closed is None or not all(isinstance(self.ctx.field(r), Scores) for r in (closed.learner, *closed.others)):
            return None
        scores = self.ctx.field(closed.learner)
        leaf = scores.bottom if isinstance(scores, Mapped) else scores
        return (closed, leaf) if isinstance(leaf, Lazy) and any(leaf is one for one in self.moving) else None

    def sizes(self) -> tuple[int, int]:
        """Rows of a tile and of a chunk, whose logits take the workspace's ``head_bytes`` at most, if it says so."""
        accelerated = _device(self).type != "cpu"
        elements = ACCELERATOR_ELEMENTS if accelerated else CHUNK_ELEMENTS
        budget = getattr(self.ctx.workspace, "head_bytes", None)
        if budget is not None:
            elements = budget // (4 * max(1, len(self.leaves)))
        chunk = max(1, elements // self.width)
        return (chunk if accelerated else max(1, min(chunk, TILE_ELEMENTS // self.width))), chunk


def readouts(ctx: Context, over: str, signals: Sequence[Signal]) -> list[Tensor]:
    """Values Float[U] of each signal; differentiable where something below them moves."""
    sweep = Sweep.of(ctx, over, signals)
    moving = sweep.moving
    if moving and torch.is_grad_enabled():
        inputs = [t for leaf in moving for t in tensors_of(leaf)]
        return list(_Readouts.apply(sweep, *inputs).unbind(0))
    return list(run(sweep, None)[0].unbind(0))


def total(
    ctx: Context, over: str, signals: Sequence[Signal], coefficients: Tensor, beside: Sequence[Signal] = ()
) -> tuple[Tensor, Tensor]:
    """``sum_{s,u} c_{su} signal_s(u)`` with fixed coefficients Float[S U], the values Float[S+B U] without gradient.

    The last B values are of the signals ``beside``, which are only read. Units whose coefficients are all 0 are skipped
    and their values are 0.
    """
    sweep = Sweep.of(ctx, over, signals, beside)
    moving = sweep.moving
    inputs = [t for leaf in moving for t in tensors_of(leaf)]
    box: list[Tensor] = []
    if inputs and torch.is_grad_enabled():
        value = _Total.apply(sweep, coefficients, box, *inputs)
        return value, box[0]
    values = run(sweep, None, coefficients)[0]
    return (values[: len(signals)] * coefficients).sum(), values


class _Total(torch.autograd.Function):
    """The sum whose gradient is formed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, sweep: Sweep, coefficients: Tensor, box: list[Tensor], *inputs: Tensor) -> Tensor:
        values, grads = run(sweep, coefficients, coefficients)
        box.append(values)
        ctx.grads = grads
        return (values[: len(sweep.signals)] * coefficients).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        if ctx.grads is None:
            raise RuntimeError("the gradient formed in the forward pass was already used; run the step again")
        grads, ctx.grads = ctx.grads, None
        # a pass over the head's gradient is a twentieth of the step: leave it out where nothing would change
        one = upstream.device.type == "cpu" and float(upstream) == 1
        return None, None, None, *(g if g is None or one else g.mul_(upstream) for g in grads)


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
        Values Float[S+B U] and, for every tensor of every moving leaf, its gradient or None.
    """
    with torch.autocast(device_type=_device(sweep).type, enabled=False):
        moving = sweep.moving if coefficients is not None else ()
        sums = [_Gradient(leaf) for leaf in moving]
        dtype = max((_dtype(leaf) for leaf in sweep.leaves), key=lambda d: torch.finfo(d).bits, default=torch.float32)
        num_rows = len(sweep.signals) + len(sweep.beside)
        values = torch.zeros(num_rows, sweep.num_units, dtype=dtype, device=_device(sweep))
        tile_rows, chunk_rows = sweep.sizes()
        buffers: dict[int, Tensor] = {}
        for chunk in _kept(sweep, skip).split(chunk_rows):
            if chunk.numel() == 0:
                continue
            held = Chunk(chunk)
            held.update({id(leaf): _held(leaf, chunk, buffers) for leaf in sweep.leaves})
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

    if sweep.beside:  # in a tile of their own: what they remember has no gradient
        with torch.no_grad():
            aside = Tile(sweep.ctx, sweep.over, index, held, rows)
            for i, signal in enumerate(sweep.beside, len(sweep.signals)):
                values[i, index] = aside(signal).to(values.dtype)
    tile = Tile(sweep.ctx, sweep.over, index, held, rows)
    if coefficients is None:
        with torch.no_grad():
            for i, signal in enumerate(sweep.signals):
                values[i, index] = tile(signal).to(values.dtype)
        return
    if _fused(sweep, tile, held, coefficients, values):
        return
    slopes: dict[int, Tensor] = {}
    rest = []
    for i, (signal, closed) in enumerate(zip(sweep.signals, sweep.closed, strict=True)):
        found = None if closed is None else _slope(tile, closed[0], _own(held, closed[1]), coefficients[i, index])
        if closed is None or found is None:
            rest.append((i, signal))
            continue
        values[i, index] = found[0].to(values.dtype)
        _add(slopes, closed[1], found[1])
    if rest:
        for leaf, grad in zip(moving, _by_autograd(tile, rest, held, moving, coefficients, values), strict=True):
            if grad is not None:
                _add(slopes, leaf, grad)
    for leaf in moving:
        raw, slope = _own(held, leaf).raw[rows], slopes.get(id(leaf))
        raw.zero_() if slope is None else raw.copy_(slope)


def _fused(sweep: Sweep, tile: Tile, held: Chunk, coefficients: Tensor, values: Tensor) -> bool:
    """All of a tile by one kernel, where its only signal has one that can run here."""
    closed = sweep.closed[0] if len(sweep.signals) == 1 and len(sweep.moving) == 1 else None
    fused = None if closed is None else getattr(closed[0].slope, "fused", None)
    if closed is None or fused is None:
        return False
    own, scores = _own(held, closed[1]), tile.scores(closed[0].learner)
    found = fused(tile, own, scores, coefficients[0, tile.index])
    if found is not None:
        values[0, tile.index] = found.to(values.dtype)
    return found is not None


def _slope(tile: Tile, closed: Closed, own: Held, coefficients: Tensor) -> tuple[Tensor, Tensor] | None:
    """Values and weighted slope in raw logits by the closed form; None where it gives no number."""
    logits = own.logits(tile.rows)
    scores = tile.scores(closed.learner)
    mapped = scores if isinstance(scores, Mapped) else None
    value, slope = closed.slope(tile, logits if mapped is None else mapped.logits(tile.rows))
    if not is_number(value):
        return None
    slope = slope if mapped is None else mapped.down(slope, tile.rows)
    return value, through_squash(slope, logits, own.head).mul_(coefficients.to(slope.dtype).unsqueeze(-1))


def _by_autograd(
    tile: Tile,
    signals: Sequence[tuple[int, Signal]],
    held: Chunk,
    moving: tuple[Lazy, ...],
    coefficients: Tensor,
    values: Tensor,
) -> Sequence[Tensor | None]:
    """Slopes in the raw logits of each moving leaf of the weighted sum of some signals; their values on the way."""
    inputs = []
    for leaf in moving:
        inputs.append(_own(held, leaf).raw[tile.rows].detach().requires_grad_())
        _own(held, leaf).leaf = inputs[-1]
    with torch.enable_grad():
        said = {i: tile(signal) for i, signal in signals}
        parts = [(value * coefficients[i, tile.index].to(value.dtype)).sum() for i, value in said.items()]
        weighted = torch.stack(parts).sum()
    for i, value in said.items():
        values[i, tile.index] = value.detach().to(values.dtype)
    for leaf in moving:
        _own(held, leaf).leaf = None
    return torch.autograd.grad(weighted, inputs, allow_unused=True) if weighted.requires_grad else [None] * len(inputs)


def _add(slopes: dict[int, Tensor], leaf: Lazy, slope: Tensor) -> None:
    found = slopes.get(id(leaf))
    slopes[id(leaf)] = slope if found is None else found.add_(slope)


class _Gradient:
    """Sums of a leaf's gradients over chunks, the head's in float32 at least."""

    def __init__(self, leaf: Lazy) -> None:
        self.leaf = leaf
        self.dtype = _dtype(leaf)
        self.sums = [torch.zeros_like(t, dtype=self.dtype) if t.requires_grad else None for t in tensors_of(leaf)]

    def add(self, chunk: Tensor, grad: Tensor) -> None:
        """Add what the gradient ``grad`` Float[k C] of the raw logits sends to each tensor."""
        head, size, sums = self.leaf.head, self.leaf.num_categories, iter(self.sums)
        hidden = self.leaf.hidden.detach()[chunk]
        to_hidden, to_weight = next(sums), next(sums)
        # the matrix units of an accelerator want both factors in the models' own type; what they add up stays float32
        narrow = grad.to(hidden.dtype) if grad.is_cuda else grad
        back = None if to_hidden is None else product(narrow, head.weight.detach()[:size], self.dtype)
        if to_weight is not None:
            add_product(to_weight[:size], narrow.T, hidden)
        hidden = hidden.to(self.dtype)
        to_bias = None if head.bias is None else next(sums)
        if to_bias is not None:
            to_bias[:size] += grad.sum(0)
        for a, b, factor in head.low:
            low = grad @ b.detach()[:size].to(self.dtype) * factor
            to_a, to_b = next(sums), next(sums)
            if to_a is not None:
                to_a.addmm_(low.T, hidden)
            if to_b is not None:
                to_b[:size].addmm_(grad.T, hidden @ a.detach().to(self.dtype).T, alpha=factor)
            if back is not None:
                back.addmm_(low, a.detach().to(self.dtype))
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


def _held(leaf: Lazy, chunk: Tensor, buffers: dict[int, Tensor]) -> Held:
    """The chunk's raw logits, in a leaf's own buffer: fresh memory for each chunk costs a tenth of the product."""
    head = leaf.head.with_tensors([t.detach() for t in leaf.head.tensors()])
    if id(leaf) not in buffers:
        buffers[id(leaf)] = leaf.hidden.new_empty(len(chunk), leaf.num_categories, dtype=_dtype(leaf))
    with torch.no_grad():
        return Held(head.raw(leaf.hidden.detach()[chunk], buffers[id(leaf)][: len(chunk)]), head)


def _kept(sweep: Sweep, skip: Tensor | None) -> Tensor:
    if skip is None:
        return torch.arange(sweep.num_units, device=_device(sweep))
    return (skip != 0).any(0).nonzero().squeeze(1)


def _dtype(leaf: Lazy) -> torch.dtype:
    return torch.promote_types(leaf.hidden.dtype, torch.float32)


def _device(sweep: Sweep) -> torch.device:
    return sweep.leaves[0].hidden.device if sweep.leaves else sweep.ctx.units(sweep.over).row.device


__all__ = ["CHUNK_ELEMENTS", "TILE_ELEMENTS", "Head", "Sweep", "readouts", "run", "tensors_of", "total"]
