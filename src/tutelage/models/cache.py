"""A key-value cache that is written in place and can be filled a few rows at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

STEP = 64  # positions a full buffer grows by at least: copies stay rare, rows that end early stay cheap


class Block(DynamicLayer):
    """Keys and values of one block: Float[B G T D], of which the first ``filled`` positions are in use.

    The library's dynamic layer copies everything it holds at each token; this one writes the new position.
    """

    def __init__(self) -> None:
        super().__init__()
        self.filled = 0
        self.num_rows = 0
        self.rows = slice(None)
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new positions of the placed rows; returns all that those rows hold."""
        end = self.filled + key_states.shape[-2]
        held = []
        for buffer, states in zip(self._room(key_states, value_states, end), (key_states, value_states), strict=True):
            buffer[self.rows, :, self.filled : end] = states
            held.append(buffer[self.rows, :, :end])
        self.filled = end
        self.keys, self.values = held
        return held[0], held[1]

    def _room(self, keys: Tensor, values: Tensor, end: int) -> tuple[Tensor, Tensor]:
        old = self._buffers
        if old is not None and end <= old[0].shape[2]:
            return old
        length = end + max(STEP, end // 4)
        # zeros, not empty: masked positions are multiplied by 0, and 0 times an uninitialised NaN is NaN
        new = [s.new_zeros(self.num_rows or s.shape[0], s.shape[1], length, s.shape[3]) for s in (keys, values)]
        for fresh, held in zip(new, old or (), strict=False):
            fresh[:, :, : held.shape[2]] = held
        self._buffers = (new[0], new[1])
        self.is_initialized = True
        self.dtype, self.device = keys.dtype, keys.device
        return self._buffers

    def get_seq_length(self) -> int:
        """Positions in use."""
        return self.filled

    def take(self, index: Tensor) -> None:
        """Keep, repeat or reorder rows."""
        if self._buffers is not None:
            self._hold(*(buffer.index_select(0, index) for buffer in self._buffers))

    def move(self, places: Tensor) -> None:
        """Give each row's positions another order, Int[B W] of those in use now; W are in use then."""
        if self._buffers is not None:
            width = places.shape[1]
            index = places[:, None, :, None]
            moved = (b.gather(2, index.expand(-1, b.shape[1], -1, b.shape[3])) for b in self._buffers)
            self._hold(*(torch.nn.functional.pad(b, (0, 0, 0, STEP)) for b in moved))
            self.filled = width

    def join(self, other: Block) -> None:
        """Add the rows of another block, which has as many positions in use and as much room."""
        if self._buffers is not None and other._buffers is not None:
            self._hold(*(torch.cat(pair) for pair in zip(self._buffers, other._buffers, strict=True)))

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        self._buffers = (keys, values)
        self.num_rows, self.keys, self.values = int(keys.shape[0]), None, None


class Grown(Cache):
    """One ``Block`` a layer."""

    def __init__(self, num_layers: int) -> None:
        self.blocks = [Block() for _ in range(num_layers)]
        super().__init__(layers=[*self.blocks])

    def place(self, rows: slice, filled: int, num_rows: int) -> None:
        """The next writes go to these of ``num_rows`` rows, from position ``filled`` on."""
        for block in self.blocks:
            block.rows, block.filled, block.num_rows = rows, filled, num_rows

    def take(self, index: Tensor) -> None:
        """Keep, repeat or reorder rows."""
        for block in self.blocks:
            block.take(index)

    def move(self, places: Tensor) -> None:
        """Give each row's positions another order: Int[B W]."""
        for block in self.blocks:
            block.rows = slice(None)
            block.move(places)

    def join(self, other: Grown) -> None:
        """Add the rows of another cache with as many positions in use."""
        for block, more in zip(self.blocks, other.blocks, strict=True):
            block.join(more)


def plain(config: Any) -> bool:
    """True if every block attends to all that came before: windows and recurrent states need caches of their own."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return all(kind == "full_attention" for kind in kinds)
    return not getattr(config, "sliding_window", None) and not getattr(config, "attention_chunk_size", None)


def library_cache(config: Any) -> DynamicCache:
    """The library's own cache, for architectures that are not ``plain``."""
    return DynamicCache(config=config)


def take_rows(cache: Cache, index: Tensor) -> None:
    """Keep, repeat or reorder the rows of either cache."""
    if isinstance(cache, Grown):
        cache.take(index)
    else:
        cache.reorder_cache(index)  # type: ignore[arg-type]
