"""Vocabulary maps: the tokens that two tokenizers spell alike, and scores over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...core.errors import ModelError
from ...core.scores import Scores, Wrapped, log_rest
from ...models.spelling import spelling


@lru_cache(maxsize=16)
def common(one: Any, other: Any) -> tuple[tuple[int, int], ...]:
    """Pairs of ids whose tokens have the same bytes, by the first tokenizer's ids.

    Where several ids of a tokenizer spell the same bytes the first counts; ids without bytes are no token.

    Args:
        one: A tokenizer.
        other: Another.

    Raises:
        ModelError: No token is spelled alike.
    """
    tables: list[dict[bytes, int]] = [{}, {}]
    for table, tokenizer in zip(tables, (one, other), strict=True):
        for index, token in enumerate(spelling(tokenizer)):
            if token:
                table.setdefault(token, index)
    pairs = tuple((index, tables[1][token]) for token, index in tables[0].items() if token in tables[1])
    if not pairs:
        raise ModelError(
            "vocabularies",
            got=f"{len(tables[0])} and {len(tables[1])} tokens, none of which is spelled alike",
            expected="tokens in common",
            remedy="Compare likelihoods of chunks instead (alm), which need bytes in common and no token.",
        )
    return pairs


@dataclass(frozen=True)
class Common:
    """A lens: scores over the tokens that two models' tokenizers spell alike, in one order, and the rest as one bucket.

    Both sides through ``Common(a, b)`` and ``Common(b, a)`` have the same categories, so any divergence compares them.

    Args:
        slot: The model whose scores these are.
        other: The model they are to be compared with.
    """

    slot: str
    other: str

    def __call__(self, value: Scores, ctx: Any) -> Scores:
        first, second = sorted((self.slot, self.other))
        models = ctx.workspace.models
        pairs = common(models[first].tokenizer, models[second].tokenizer)
        return Picked(value, torch.tensor([pair[int(self.slot != first)] for pair in pairs]))


@dataclass(frozen=True, eq=False)
class Picked(Wrapped):
    """Scores of some categories and, last, the mass of the others; lazy where the scores below are.

    Args:
        of: The scores of all categories.
        ids: Int[K], the categories that are picked.
    """

    of: Scores
    ids: Tensor

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return len(self.ids) + 1

    @property
    def below(self) -> tuple[Scores, ...]:
        return (self.of,)

    def over(self, below: Sequence[Scores]) -> Scores:
        return Picked(below[0], self.ids)

    def at(self, rows: slice) -> Tensor:
        whole = self.of.at(rows)
        kept = whole.index_select(-1, self.ids.to(whole.device))
        return torch.cat([kept, log_rest(kept).unsqueeze(-1)], -1)
