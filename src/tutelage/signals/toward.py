"""Features pushed along a direction: what a head reads, the directions of its classes, and how far along one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.context import Asks
from ..core.errors import NeedError, SettingError
from ..core.scores import Head, Lazy
from ..core.signal import Read, Signal

EPSILON = 1e-8


@dataclass(frozen=True)
class Beneath:
    """Scores as the features that their head reads, Float[U D], with their gradient."""

    def __call__(self, value: Any, ctx: Any) -> Tensor:
        return linear(value, "Beneath").hidden


@dataclass(frozen=True)
class ClassRow:
    """Scores as the unit row of their head at each unit's class, Float[U D]: the direction in which the class lies.

    A head over class means (``surgery.fit.ClassMeans``) so gives each class's mean direction, a language model's the
    direction of the next token.

    Args:
        note: The note of the rows that holds the class's number; empty takes the unit's target.
        over: The unit list of the scores.
    """

    note: str = ""
    over: str = "tokens"

    def __call__(self, value: Any, ctx: Any) -> Tensor:
        classes = ctx.note(self.note, self.over).long() if self.note else ctx.target(self.over)
        return torch.nn.functional.normalize(head_rows(linear(value, "ClassRow").head, classes), dim=-1)


@dataclass(frozen=True)
class Toward(Signal):
    """``1 - <f, e> / max(|f|, |t|)`` in [0, 2]: 0 where f lies along e and is at least as long as t.

    While f is shorter than t, being longer and being better aligned both lower it; beyond that only the angle counts,
    so f cannot grow without bound. The gradient reaches f alone.

    Args:
        f: The learner's features.
        t: The features whose length is asked for.
        e: Unit directions.

    Raises:
        SettingError: When read: other widths.

    Source: arXiv:2305.17007.
    """

    f: Read
    t: Read
    e: Read

    def __call__(self, ctx: Asks) -> Tensor:
        f, t, e = ctx.features(self.f), ctx.features(self.t).detach(), ctx.features(self.e).detach()
        if not f.shape[-1] == t.shape[-1] == e.shape[-1]:
            raise SettingError(
                "Toward",
                got=f"features of widths {f.shape[-1]}, {t.shape[-1]} and {e.shape[-1]}",
                expected="one width",
                remedy="Learn a map from the student's width to the teacher's (project=true).",
            )
        # in float32 at least: a half-precision norm of a wide stream overflows
        f, t, e = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (f, t, e))
        length = torch.maximum(torch.linalg.vector_norm(f, dim=-1), torch.linalg.vector_norm(t, dim=-1))
        return 1 - (f * e).sum(-1) / length.clamp_min(EPSILON)


def head_rows(head: Head, classes: Tensor) -> Tensor:
    """The rows of a head's weight, low-rank pairs added: Float[U D]."""
    rows = head.weight[classes]
    for a, b, factor in head.low:
        rows = rows + factor * (b[classes] @ a).to(rows.dtype)
    return rows


def linear(value: Any, where: str) -> Lazy:
    """Scores that are features and a head.

    Raises:
        NeedError: Any others.
    """
    if not isinstance(value, Lazy):
        raise NeedError(
            where,
            got="scores or features without a head",
            expected="scores of a model in this process",
            remedy="A cache or a server does not say what its head read: load the model.",
        )
    return value
