"""Reading prompts: what rows share is read once, and rows of like length are read together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .cache import Grown, library_cache, plain, take_rows
from .causal import Causal

POSITIONS = 2048  # padded positions read at a time: enough to fill the machine, little enough to stay small


@dataclass(frozen=True, eq=False)
class Prefilled:
    """A batch that is ready for its next token.

    Args:
        cache: Keys and values, changed in place by ``step``.
        hidden: Float[B D], the hidden state that predicts the next token.
        mask: Int[B T], 1 where a real token lies; as long as the rows can grow.
        position: Int[B], the position of the next token in its row.
        filled: How many positions of the grid are in use.
    """

    cache: Any
    hidden: Tensor
    mask: Tensor
    position: Tensor
    filled: int

    def step(self, causal: Causal, ids: Tensor) -> Prefilled:
        """Read one more token a row: Int[B]."""
        end = self.filled + 1
        out = causal.body(
            input_ids=ids[:, None],
            attention_mask=self.mask[:, :end],
            position_ids=self.position[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        hidden = out.last_hidden_state[:, -1]
        return replace(self, hidden=hidden, position=self.position + 1, filled=end)

    @property
    def longest(self) -> int:
        """The most real tokens of a row."""
        return int(self.position.max())

    def joined(self, other: Prefilled, room: int) -> Prefilled:
        """These rows and those of another batch, each pushed to the right, with room for more tokens.

        Positions that no row uses any more go: the grid is as long as the longest row.
        """
        width = max(self.longest, other.longest)
        for state in (self, other):
            state.cache.move(state._right(width))
        self.cache.join(other.cache)
        hidden, position = (torch.cat(pair) for pair in ((self.hidden, other.hidden), (self.position, other.position)))
        places = torch.arange(width, device=position.device)
        mask = (places[None] >= width - position[:, None]).long()
        return Prefilled(self.cache, hidden, _longer(mask, room), position, width)

    def _right(self, width: int) -> Tensor:
        """For each of ``width`` places, where in the grid its token lies now; padding, which is unseen, comes first."""
        order = self.mask[:, : self.filled].argsort(dim=1, stable=True)[:, -width:]
        return torch.nn.functional.pad(order, (width - order.shape[1], 0))


def prefill(causal: Causal, prompts: Sequence[Sequence[int]], room: int) -> Prefilled:
    """Read all prompts, equal ones once, and leave room for ``room`` tokens."""
    distinct = {key: place for place, key in enumerate(dict.fromkeys(tuple(p) for p in prompts))}
    rows = list(distinct)
    reader = _shared if plain(causal.config) else _together
    state = reader(causal, rows, room)
    places = [distinct[tuple(p)] for p in prompts]
    if places == list(range(len(rows))):
        return state
    index = torch.tensor(places, device=causal.device)
    take_rows(state.cache, index)
    return replace(state, hidden=state.hidden[index], mask=state.mask[index], position=state.position[index])


def _together(causal: Causal, rows: list[tuple[int, ...]], room: int) -> Prefilled:
    """All rows at once, padded on the left, with the library's cache."""
    longest = max(map(len, rows))
    ids, mask = _padded(rows, longest, causal.device)
    cache = library_cache(causal.config)
    out = causal.body(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    return Prefilled(cache, out.last_hidden_state[:, -1], _longer(mask, room), mask.sum(1), longest)


def _shared(causal: Causal, rows: list[tuple[int, ...]], room: int) -> Prefilled:
    """The beginning that all rows share once, then the rests, sorted by length.

    The grid of a row is: shared beginning, padding, rest. Positions are given, so padding in the middle is unseen.
    """
    start = _common(rows) if len(rows) > 1 else 0
    rests = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    longest = len(rows[rests[-1]])
    device, total = causal.device, len(rows)
    mask = torch.zeros(total, longest, dtype=torch.long, device=device)
    mask[:, :start] = 1
    cache = Grown(len(causal.layers))
    if start:
        cache.place(slice(None), 0, 1)
        ids = torch.tensor([rows[0][:start]], device=device)
        causal.body(input_ids=ids, past_key_values=cache, use_cache=True)
        cache.take(torch.zeros(total, dtype=torch.long, device=device))
    hidden = []
    for begin, end in _chunks([len(rows[i]) - start for i in rests]):
        chunk = [rows[i][start:] for i in rests[begin:end]]
        width = max(map(len, chunk))
        ids, real = _padded(chunk, width, device)
        mask[begin:end, longest - width :] = real
        cache.place(slice(begin, end), longest - width, total)
        out = causal.body(
            input_ids=ids,
            attention_mask=mask[begin:end],
            position_ids=(start + real.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        hidden.append(out.last_hidden_state[:, -1])
    cache.place(slice(None), longest, total)
    state = Prefilled(cache, torch.cat(hidden), _longer(mask, room), mask.sum(1), longest)
    if rests == list(range(total)):
        return state
    back = torch.tensor(rests, device=device).argsort()
    cache.take(back)
    return replace(state, hidden=state.hidden[back], mask=state.mask[back], position=state.position[back])


def _chunks(lengths: list[int]) -> list[tuple[int, int]]:
    """Ranges of rows, shortest first, of at most ``POSITIONS`` padded positions (one row at least)."""
    out, begin = [], 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or (end + 1 - begin) * lengths[end] > POSITIONS:
            out.append((begin, end))
            begin = end
    return out


def _common(rows: list[tuple[int, ...]]) -> int:
    """The length of the beginning all rows share; each keeps at least one token of its own."""
    first, last, limit = min(rows), max(rows), min(map(len, rows)) - 1
    count = 0
    while count < limit and first[count] == last[count]:
        count += 1
    return count


def _padded(rows: Sequence[Sequence[int]], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows padded on the left, and where they are real: Int[B T] both."""
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, width - len(row) :] = torch.tensor(row)
        mask[place, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def _longer(mask: Tensor, room: int) -> Tensor:
    return torch.nn.functional.pad(mask, (0, room), value=1)
