"""Comparing what two voices say, and what a voice says with the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.closed import Closed
from ..core.context import Asks, Tile
from ..core.doubts import Here
from ..core.errors import SettingError
from ..core.mapped import Divided
from ..core.scores import Head, Held, Scores
from ..core.signal import Read, Signal
from .buckets import BucketSlope, bucketed
from .divergences.closed import Form, Side, closed_form
from .divergences.launch import Launch, launch_of, usable

Compare = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Whole:
    """Every category."""

    def __call__(self, log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
        return log_q, log_p


whole = Whole()


@dataclass(frozen=True)
class Top:
    """The k most probable categories of one side, and what happens to the rest.

    Args:
        k: How many, >= 1; all when the vocabulary is smaller.
        of: ``teacher`` or ``student``: whose k.
        rest: ``tail`` keeps the remaining mass as one bucket, exactly (the divergence is then a lower bound of the
            whole one and never negative); ``renormalise`` forgets it and rescales both sides; ``drop`` leaves it out
            (a partial sum, no longer a divergence: it may be negative).
    """

    k: int
    of: str = "teacher"
    rest: str = "tail"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise SettingError("Top.k", got=str(self.k), expected="a whole number >= 1", remedy="32 to 128 is usual.")
        if self.of not in ("teacher", "student"):
            raise SettingError(
                "Top.of", got=repr(self.of), expected="'teacher' or 'student'", remedy="Say whose categories."
            )
        if self.rest not in ("tail", "renormalise", "drop"):
            raise SettingError(
                "Top.rest",
                got=repr(self.rest),
                expected="'tail', 'renormalise' or 'drop'",
                remedy="'tail' is exact about the remaining mass.",
            )

    def doubt(self, here: Here) -> str:
        """A choice that leaves nothing out."""
        if here.categories is None or self.k < here.categories:
            return ""
        return f"Top(k={self.k}) keeps each of {here.categories} tokens: leave it out, which costs less."

    def __call__(self, log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
        chooser = log_p if self.of == "teacher" else log_q
        ids = chooser.detach().topk(min(self.k, chooser.shape[-1]), dim=-1).indices
        rest = "drop" if self.rest == "tail" and self.k >= chooser.shape[-1] else self.rest
        return bucketed(log_q.gather(-1, ids), rest), bucketed(log_p.gather(-1, ids), rest)


@dataclass(frozen=True)
class Match(Signal):
    """``compare(q, p)`` at each unit; p never gets a gradient.

    On scores ``compare`` is a divergence of log-probabilities over the categories that ``on`` keeps; on features it is
    a distance.

    Args:
        compare: ``(q, p) Float[... C] -> Float[...]``.
        q: The learner's side.
        p: The side that is matched.
        on: Which categories are compared, and what happens to the rest.
    """

    compare: Compare
    q: Read = Read("student")
    p: Read = Read("teacher")
    on: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = whole

    def __post_init__(self) -> None:
        if self.q.over != self.p.over:
            raise SettingError(
                "Match",
                got=f"reads over {self.q.over!r} and {self.p.over!r}",
                expected="one unit list",
                remedy="Read both sides over the same units.",
            )
        if getattr(self.compare, "needs_whole", False) and not isinstance(self.on, Whole):
            raise SettingError(
                "Match",
                got=f"{self.compare} on {self.on}",
                expected="every category",
                remedy="A temperature changes the mass of the rest: temper with on=whole, or leave it at 1.",
            )

    def __call__(self, ctx: Asks) -> Tensor:
        log_q, log_p = ctx.log_probs(self.q), ctx.log_probs(self.p).detach()
        _same_categories(log_q, log_p)
        return self.compare(*self.on(log_q, log_p))

    def closed(self) -> Closed | None:
        if isinstance(self.on, Top):
            slope = BucketSlope(self.compare, self.p, self.on.k, self.on.rest) if self.on.of == "teacher" else None
        else:
            form = closed_form(self.compare) if isinstance(self.on, Whole) else None
            slope = None if form is None else WholeSlope(form, self.p, launch_of(self.compare))
        return None if slope is None else Closed(self.q, slope, (self.p,))


@dataclass(frozen=True)
class WholeSlope:
    """A closed form over every category, against what ``p`` says."""

    form: Form
    p: Read
    launch: Launch | None = None

    def __call__(self, tile: Tile, logits: Tensor) -> tuple[Tensor, Tensor]:
        other = tile.logits(self.p)
        _same_categories(logits, other)
        return self.form(logits, other.to(logits.dtype))

    def fused(self, tile: Tile, own: Held, scores: Scores, coefficients: Tensor) -> Tensor | None:
        """By one kernel, where it can run and both sides are held logits, divided by numbers a unit or as they are."""
        mine, theirs = _divided(scores, tile.rows), _divided(tile.scores(self.p), tile.rows)
        if self.launch is None or mine is None or theirs is None or theirs[0] is own:
            return None
        other = theirs[0]
        raw, other_raw = own.raw[tile.rows], other.raw[tile.rows]
        if not usable(raw) or other_raw.dtype != raw.dtype or not (_finite(own.head) and _finite(other.head)):
            return None
        _same_categories(raw, other_raw)
        return self.launch(raw, own.head, other_raw, other.head, coefficients, (mine[1], theirs[1]))


def _divided(scores: Scores, rows: slice) -> tuple[Held, Tensor | None] | None:
    """Held logits and what divides them, Float[k]; None for scores of another form."""
    by: Tensor | None = None
    while isinstance(scores, Divided):
        by = scores.by[rows] if by is None else by * scores.by[rows]
        scores = scores.of
    return (scores, by) if isinstance(scores, Held) else None


def _finite(head: Head) -> bool:
    """Whether no bias excludes a category, which the kernel has no general road for."""
    return head.bias is None or bool(torch.isfinite(head.bias).all())


def _same_categories(q: Tensor, p: Tensor) -> None:
    if q.shape[-1] != p.shape[-1]:
        raise SettingError(
            "Match",
            got=f"{q.shape[-1]} and {p.shape[-1]} categories",
            expected="the same categories",
            remedy="Heads of other sizes need `agree`; other tokenizers need an alignment.",
        )


@dataclass(frozen=True)
class Targets(Signal):
    """Cross-entropy with the data: ``-log q(target)`` in nats."""

    q: Read = Read("student")
    of_target: ClassVar[bool] = True  # all that it needs of a voice

    def __call__(self, ctx: Asks) -> Tensor:
        return -target_log_prob(ctx, self.q)

    def closed(self) -> Closed:
        return Closed(self.q, TargetSlope(self.q.over))


@dataclass(frozen=True)
class TargetSlope:
    """``-log q(target)``, slope ``q`` less 1 at the target."""

    over: str

    def __call__(self, tile: Tile, logits: Tensor) -> tuple[Tensor, Tensor]:
        target = tile.target(self.over).unsqueeze(-1)
        q = Side.of(logits)
        value = (q.top - logits.gather(-1, target)).sub_(q.log_share)
        return value.squeeze(-1), q.share.scatter_add_(-1, target, torch.full_like(value, -1.0))


def target_log_prob(ctx: Asks, read: Read) -> Tensor:
    """Log-probability of each unit's target."""
    return ctx.log_probs(read).gather(-1, ctx.target(read.over).unsqueeze(-1)).squeeze(-1)


def squared_error(q: Tensor, p: Tensor) -> Tensor:
    """Mean squared difference over features: a distance."""
    return (q - p).square().mean(-1)


def cosine_distance(q: Tensor, p: Tensor) -> Tensor:
    """``1 - cos(q, p)``, in [0, 2]."""
    return 1 - torch.nn.functional.cosine_similarity(q, p, dim=-1)
