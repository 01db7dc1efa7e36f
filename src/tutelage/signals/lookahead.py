"""Look-ahead: a learned share of two losses, and what it would do to held-out loss one step later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.context import Asks, Context
from ..core.errors import DataError, SettingError, unknown
from ..core.scores import Scores
from ..core.signal import Couples, Read, Signal, Still
from ..data.collate import Collate
from ..models.curvature import ELEMENTS, affine
from .toward import linear

LONGEST = 1 << 20


@dataclass(frozen=True)
class Decided(Signal):
    """What a trained part makes of some numbers of each unit, Float[U F] -> Float[U]; the gradient reaches the part.

    Args:
        part: The part's slot.
        of: The numbers, F signals over one unit list; no gradient reaches them.
    """

    part: str
    of: tuple[Signal, ...]
    couples: ClassVar[Couples] = Couples.ROW  # worked out on whole vectors: a tile's gradient would miss the part

    def __call__(self, ctx: Asks) -> Tensor:
        numbers = [ctx.spread(Still(signal), self.over) for signal in self.of]
        count = len(ctx.batch.units[self.over or "tokens"])
        module = ctx.workspace.models[self.part]  # type: ignore[attr-defined]
        x = torch.stack([n.expand(count) for n in numbers], 1)
        return module(x.to(next(module.parameters()).dtype))

    def children(self) -> tuple[Signal, ...]:
        return tuple(Still(signal) for signal in self.of)


@dataclass(frozen=True)
class OfTarget(Signal):
    """A fit's number for each unit's target: Float[U].

    Args:
        part: The slot of a fit with one row a token (``surgery.token_means.TokenMeans``).
    """

    part: str

    @property
    def over(self) -> str:
        return "tokens"

    def __call__(self, ctx: Asks) -> Tensor:
        holder = ctx if isinstance(ctx, Context) else ctx.ctx  # type: ignore[attr-defined]
        return holder.workspace.models[self.part].weight[ctx.target("tokens"), 0]


@dataclass(frozen=True)
class AheadSlope(Signal):
    """How the held-out loss after one step changes with each unit's share: ``U d L_held(W') / d a_u``, Float[U].

    The step is ``W' = W - rate * d mean_u [a_u T^2 KL(p_T || q_T) + (1 - a_u) CE] / d W`` in the weights W of the
    student's head alone, and L_held the mean cross-entropy on answers of held-out rows, at W'. The step is linear in
    the shares, so the slope is exact: ``-rate (s_u - h_u) . (G x_u)``, with s and h the slopes of the two losses
    in the logits, x what the head reads and G the gradient of L_held at W'. No second derivative is formed. A mean of
    shares times their slopes has the gradient of L_held(W') in whatever makes the shares.

    Args:
        share: The signal a.
        held: The data set of held-out rows.
        num_held: Rows of it that are drawn each step, >= 1.
        temperature: T > 0.
        rate: Of the step, > 0.

    Raises:
        SettingError: A number out of range.

    Source: arXiv:2312.15112.
    """

    share: Signal
    held: str = "held_out"
    num_held: int = 8
    temperature: float = 1.5
    rate: float = 0.1
    q: Read = Read("student")
    p: Read = Read("teacher")
    couples: ClassVar[Couples] = Couples.BATCH

    def __post_init__(self) -> None:
        if self.num_held < 1 or not (self.temperature > 0 and self.rate > 0):
            raise SettingError(
                "AheadSlope",
                got=f"num_held={self.num_held}, temperature={self.temperature}, rate={self.rate}",
                expected="a row or more, and a temperature and a rate above 0",
                remedy="8, 1.5 and 0.1 are usual.",
            )

    def __call__(self, ctx: Asks) -> Tensor:
        assert isinstance(ctx, Context)
        lazy = linear(ctx.field(self.q), "AheadSlope")
        x, weight = affine(lazy.hidden.detach(), lazy.head)
        share = ctx.spread(Still(self.share), "tokens").to(x.dtype).expand(len(x))
        total = torch.zeros_like(weight)
        for rows, soft, hard in self._slopes(ctx, x, weight):
            a = share[rows].unsqueeze(1)
            total.addmm_((a * soft + (1 - a) * hard).T, x[rows])
        away = self._held(ctx, weight - self.rate / max(1, len(x)) * total)
        found = [((soft - hard) * (x[rows] @ away.T)).sum(-1) for rows, soft, hard in self._slopes(ctx, x, weight)]
        return -self.rate * torch.cat(found) if found else share

    def children(self) -> tuple[Signal, ...]:
        return (Still(self.share),)

    @property
    def over(self) -> str:
        return "tokens"

    def _slopes(self, ctx: Context, x: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some units at a time: which, and the slopes of the soft and the hard loss in their logits."""
        teacher, target, size = ctx.field(self.p), ctx.target("tokens"), max(1, ELEMENTS // len(weight))
        assert isinstance(teacher, Scores)
        for start in range(0, len(x), size):
            rows = slice(start, min(start + size, len(x)))
            logits, t = x[rows] @ weight.T, self.temperature
            soft = t * ((logits / t).softmax(-1) - (teacher.at(rows).to(logits.dtype) / t).softmax(-1))
            hard = logits.softmax(-1)
            hard[torch.arange(len(hard)), target[rows]] -= 1
            yield rows, soft, hard

    def _held(self, ctx: Context, weight: Tensor) -> Tensor:
        """The gradient of the held-out loss in the head's weights, there."""
        rows = ctx.workspace.data.get(self.held)
        if rows is None:
            raise unknown("look-ahead", self.held, ctx.workspace.data, "Name rows that are not trained on.")
        if not rows:
            raise DataError("look-ahead", got="no held-out rows", expected="at least one", remedy="Add some.")
        student = ctx.workspace.models[self.q.who]
        chosen = torch.randperm(len(rows), generator=ctx.generator("held"))[: self.num_held].sort().values.tolist()
        batch = Collate(student.tokenizer, student.max_positions or LONGEST)([rows[i] for i in chosen])
        batch = batch.to(student.device)
        lazy = linear(student.predict(batch.views["main"], frozenset({"next"}))["next"], "AheadSlope")
        x, target = affine(lazy.hidden, lazy.head)[0], batch.units["tokens"].target
        assert target is not None
        total = torch.zeros_like(weight)
        for some, right in zip(*(v.split(max(1, ELEMENTS // len(weight))) for v in (x, target)), strict=True):
            slope = (some @ weight.T).softmax(-1)
            slope[torch.arange(len(slope)), right] -= 1
            total.addmm_(slope.T, some, alpha=1 / len(x))
        return total
