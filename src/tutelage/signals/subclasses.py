"""Subclasses: scores over classes as scores over parts of the classes, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import SettingError
from ..core.scores import Head, Lazy, Rows, Scores, Wrapped
from .toward import linear


@dataclass(frozen=True, eq=False)
class Parted(Wrapped):
    """``log p(c) + log m(s | c)``: classes that are parted come first, S in a row, then the others as they are.

    Args:
        whole: Scores over classes.
        within: Scores whose categories are the parts, S in a row for each parted class; only differences within a class
            count.
        num_parts: S.
        ids: Int[K], the classes that are parted; None parts all.
        others: Int[C-K], the classes that are not.
    """

    whole: Scores
    within: Scores
    num_parts: int
    ids: Tensor | None = None
    others: Tensor | None = None

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.within.num_categories + (0 if self.others is None else len(self.others))

    @property
    def below(self) -> tuple[Scores, ...]:
        return (self.whole, self.within)

    def over(self, below: Sequence[Scores]) -> Scores:
        return Parted(below[0], below[1], self.num_parts, self.ids, self.others)

    def at(self, rows: Rows) -> Tensor:
        whole = self.whole.at(rows)
        parts = self.within.at(rows).unflatten(-1, (-1, self.num_parts)).log_softmax(-1)
        mine = whole if self.ids is None else whole[:, self.ids]
        parted = (mine.unsqueeze(-1) + parts).flatten(1)
        return parted if self.others is None else torch.cat([parted, whole[:, self.others]], 1)


@dataclass(frozen=True, eq=False)
class Merged(Wrapped):
    """``log sum_s p(c, s)``: each S categories in a row as one.

    Args:
        of: Scores over C times S categories.
        num_parts: S.
    """

    of: Scores
    num_parts: int

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.of.num_categories // self.num_parts

    @property
    def below(self) -> tuple[Scores, ...]:
        return (self.of,)

    def over(self, below: Sequence[Scores]) -> Scores:
        return Merged(below[0], self.num_parts)

    def at(self, rows: Rows) -> Tensor:
        return self.of.at(rows).unflatten(-1, (-1, self.num_parts)).logsumexp(-1)


@dataclass(frozen=True)
class Subdivide:
    """Scores over classes as scores over their parts, whose shares a linear map of the same features tells.

    Args:
        part: The slot of the map, trained or fitted; it may have more rows than there are parts.
        by: The slot of the axes (``surgery.axes.ClassAxes``), which say which classes are parted.
        num_parts: Parts of each.

    Raises:
        SettingError: When read: a map with fewer rows than parts.
    """

    part: str
    by: str
    num_parts: int

    def __call__(self, value: Any, ctx: Any) -> Scores:
        lazy, models = linear(value, "Subdivide"), ctx.workspace.models
        head, ids, count = models[self.part], models[self.by].ids, len(models[self.by].bias)
        if len(head.bias) < count or count % self.num_parts:
            raise SettingError(
                f"Subdivide, {self.part!r}",
                got=f"{len(head.bias)} rows",
                expected=f"{count}, a multiple of {self.num_parts}",
                remedy="Make the head and the axes with the same number of subclasses.",
            )
        within = Lazy(lazy.hidden, Head(head.weight[:count], head.bias[:count]))
        if ids is None:
            return Parted(lazy, within, self.num_parts)
        left = torch.ones(lazy.num_categories, dtype=torch.bool, device=ids.device).index_fill(0, ids, False)
        return Parted(lazy, within, self.num_parts, ids, left.nonzero().squeeze(1))


@dataclass(frozen=True)
class Merge:
    """Scores over parts of classes as scores over the classes.

    Args:
        num_parts: Parts of each.
    """

    num_parts: int

    def __call__(self, value: Scores, ctx: Any) -> Scores:
        return Merged(value, self.num_parts)
