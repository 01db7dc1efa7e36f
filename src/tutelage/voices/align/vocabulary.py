"""Vocabulary maps: the tokens that two tokenizers spell alike, and scores over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...core.errors import ModelError
from ...core.scores import Scores, Wrapped, log_rest
from ...models.agree import same_tokens
from ...models.spelling import falls_back, spelling


@lru_cache(maxsize=16)
def common(one: Any, other: Any) -> tuple[tuple[int, int], ...]:
    """Pairs of ids whose tokens have the same bytes, and the two that end an answer, by the first tokenizer's ids.

    Where several ids of a tokenizer spell the same bytes the first counts, and one that stands for a byte of unknown
    text only if there is no other; ids without bytes are no token. Ends are what the tokenizers call EOS, however they
    are spelled.

    Args:
        one: A tokenizer.
        other: Another.

    Raises:
        ModelError: No token is spelled alike.
    """
    tables: list[dict[bytes, int]] = [{}, {}]
    for table, tokenizer in zip(tables, (one, other), strict=True):
        spelled, last_resort = spelling(tokenizer), falls_back(tokenizer)
        for index in sorted(range(len(spelled)), key=last_resort.__getitem__):
            if spelled[index]:
                table.setdefault(spelled[index], index)
    pairs = {index: tables[1][token] for token, index in tables[0].items() if token in tables[1]}
    if not pairs:
        raise ModelError(
            "vocabularies",
            got=f"{len(tables[0])} and {len(tables[1])} tokens, none of which is spelled alike",
            expected="tokens in common",
            remedy="Compare likelihoods of chunks instead (alm), which need bytes in common and no token.",
        )
    ends = one.eos_token_id, other.eos_token_id
    if None not in ends and ends[0] not in pairs and ends[1] not in pairs.values():
        pairs[ends[0]] = ends[1]
    return tuple(sorted(pairs.items()))


def paired(models: Mapping[str, Any], one: str, other: str) -> tuple[Tensor, Tensor] | None:
    """The ids that two models share, Int[K] of each in one order; None where an id is the same token to both.

    Args:
        models: Models by slot.
        one: A slot.
        other: Another.
    """
    if same_tokens(models[one], models[other]):
        return None
    first, second = sorted((one, other))
    pairs = torch.tensor(common(models[first].tokenizer, models[second].tokenizer))
    return (pairs[:, 0], pairs[:, 1]) if one == first else (pairs[:, 1], pairs[:, 0])


@dataclass(frozen=True)
class Common:
    """A lens: scores over the tokens that two models share (``common``), in one order, and the rest as one bucket.

    Both sides through ``Common(a, b)`` and ``Common(b, a)`` have the same categories, so any divergence compares them.
    Models of one tokenizer keep all their categories.

    Args:
        slot: The model whose scores these are.
        other: The model they are to be compared with.
        rest: False leaves the other tokens out: what the shared ones have of the probability is all there is.
    """

    slot: str
    other: str
    rest: bool = True

    def __call__(self, value: Scores, ctx: Any) -> Scores:
        ids = paired(ctx.workspace.models, self.slot, self.other)
        return value if ids is None else Picked(value, ids[0], self.rest)


@dataclass(frozen=True, eq=False)
class Picked(Wrapped):
    """Scores of some categories and, last, the mass of the others; lazy where the scores below are.

    Args:
        of: The scores of all categories.
        ids: Int[K], the categories that are picked.
        rest: False has no last category, and the others add up to 1.
    """

    of: Scores
    ids: Tensor
    rest: bool = True

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return len(self.ids) + self.rest

    @property
    def below(self) -> tuple[Scores, ...]:
        return (self.of,)

    def over(self, below: Sequence[Scores]) -> Scores:
        return Picked(below[0], self.ids, self.rest)

    def logits(self, rows: slice) -> Tensor:
        """Those below, where there is no rest: their ``logsumexp`` then tells what the picked ones have of it."""
        return self.at(rows) if self.rest else self._kept(self.of.logits(rows))

    def at(self, rows: slice) -> Tensor:
        if not self.rest:
            return self.logits(rows).log_softmax(-1)
        kept = self._kept(self.of.at(rows))
        return torch.cat([kept, log_rest(kept).unsqueeze(-1)], -1)

    def _kept(self, values: Tensor) -> Tensor:
        return values.index_select(-1, self.ids.to(values.device))
