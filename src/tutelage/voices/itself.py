"""A model as it is, as it was at the start, or as an exponential moving average: teachers made of the student."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.batch import View
from ..core.context import Context
from ..core.doubts import Here
from ..core.errors import SettingError, unknown
from ..core.schedule import Memory, Progress
from ..models.adapter import bare, has_adapter
from ..models.causal import resting


class Shadow(Memory):
    """The remembered weights of a slot: ``shadow += rate (live - shadow)`` after each optimiser step."""

    def __init__(self, rate: float, every: int) -> None:
        self.rate, self.every = rate, every
        self.weights: dict[str, Tensor] = {}
        self.model: Any = None

    def reset(self) -> None:
        self.weights, self.model = {}, None

    def follow(self, model: Any) -> Any:
        """The shadow model, made from the live one when first asked."""
        if self.model is None:
            self.model = copy.deepcopy(model)
            self.live = model
            self.model.model.requires_grad_(False).eval()
            if self.weights:
                self.model.model.load_state_dict(self.weights, strict=False)
            self.weights = {k: v for k, v in self.model.model.state_dict().items() if v.is_floating_point()}
        return self.model

    @torch.no_grad()
    def observe(self, progress: Progress, tracked: Mapping[str, float]) -> None:
        if self.model is None or not self.rate or (progress.step + 1) % self.every:
            return
        live = self.live.model.state_dict()
        # Tied weights stand under several names: each is followed once, or its rate would be another.
        once = {value.data_ptr(): name for name, value in self.weights.items()}
        for name in once.values():
            self.weights[name].lerp_(live[name].to(self.weights[name].dtype), self.rate)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.weights)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights, self.model = {k: v.clone() for k, v in state.items()}, None


@dataclass(frozen=True, eq=False)
class Ema:
    """The exponential moving average of a slot: ``shadow = (1 - rate) shadow + rate live`` each optimiser step.

    Args:
        slot: The slot that is followed.
        rate: In (0, 1]: the share of the live weights. 0.01 follows over about a hundred steps; 1 is a copy.
        sees: The view it reads.
        every: Follow only each n-th step: with ``rate=1`` a snapshot.
    """

    slot: str = "student"
    rate: float = 0.01
    sees: str = "main"
    every: int = 1
    shadow: Shadow = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1 or self.every < 1:
            raise SettingError(
                "Ema",
                got=f"rate={self.rate}, every={self.every}",
                expected="rate in (0, 1] and every >= 1",
                remedy="The rate is the share of the live weights a step, e.g. 0.01; 0.99 would copy them.",
            )
        object.__setattr__(self, "shadow", Shadow(self.rate, self.every))

    def doubt(self, here: Here) -> str:
        """A teacher that never follows."""
        if self.every <= here.steps:
            return ""
        return f"the teacher that follows {self.slot} each {self.every} steps stays as it starts in {here.steps}."

    def slots(self) -> frozenset[str]:
        """None: nothing that moves lies upstream of it."""
        return frozenset()

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        """What the shadow says."""
        return _said(ctx, self.slot, self.shadow.follow(ctx.workspace.models[self.slot]), self.sees, wants)


@dataclass(frozen=True, eq=False)
class Initial:
    """A slot as it was when the stage began: a teacher or reference that does not move.

    A model with an adapter needs no copy: its base, with the adapter switched off for the pass, is the model as it was
    before any adapter. Other models are copied when first asked, and the copy is saved with the checkpoints.

    Args:
        slot: The slot.
        sees: The view it reads.
    """

    slot: str = "student"
    sees: str = "main"
    shadow: Shadow = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shadow", Shadow(0.0, 1))

    def slots(self) -> frozenset[str]:
        """None: nothing that moves lies upstream of it."""
        return frozenset()

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        """What the model said before it was trained."""
        model = ctx.workspace.models[self.slot]
        if not has_adapter(model):
            return _said(ctx, self.slot, self.shadow.follow(model), self.sees, wants)
        with bare(model):
            return _said(ctx, self.slot, model, self.sees, wants)


@dataclass(frozen=True)
class Now:
    """A slot as it is at this step, read as a teacher: no graph is kept and no gradient reaches it.

    Args:
        slot: The slot.
        sees: The view it reads.
    """

    slot: str = "student"
    sees: str = "main"

    def slots(self) -> frozenset[str]:
        """None: what it says is a target, never a thing that moves."""
        return frozenset()

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        """What the model says now."""
        return _said(ctx, self.slot, ctx.workspace.models[self.slot], self.sees, wants)


def snapshot(slot: str = "student", *, every: int, sees: str = "main") -> Ema:
    """The slot's weights as they were at the last multiple of ``every`` steps."""
    return Ema(slot, rate=1.0, sees=sees, every=every)


def itself(slot: str = "student", *, decay: float, sees: str = "main") -> Initial | Ema | Now:
    """A slot as its own teacher: ``teacher = decay teacher + (1 - decay) live`` each step.

    Args:
        slot: The slot.
        decay: In [0, 1]: 1 is the model as it was at the start, 0 the model as it is, between them a moving average.
        sees: The view it reads.

    Raises:
        SettingError: A decay outside [0, 1].
    """
    if not 0 <= decay <= 1:
        raise SettingError(
            "decay", got=str(decay), expected="a share in [0, 1]", remedy="1 keeps the start, 0.999 follows slowly."
        )
    if decay == 1:
        return Initial(slot, sees)
    return Now(slot, sees) if decay == 0 else Ema(slot, 1 - decay, sees)


def _said(ctx: Context, slot: str, model: Any, sees: str, wants: frozenset[str]) -> Mapping[str, Any]:
    """What a model says of a view, dropout off and without a graph; charged to its slot."""
    if sees not in ctx.batch.views:
        raise unknown("view", sees, ctx.batch.views)
    view: View = ctx.batch.views[sees]
    still = resting(model.model) if isinstance(getattr(model, "model", None), torch.nn.Module) else nullcontext()
    charged = ctx.workspace.ledger.timed(slot, "predict", tokens=int(view.inputs["input_ids"].numel()))
    with torch.no_grad(), still, charged:
        return model.predict(view, wants)
