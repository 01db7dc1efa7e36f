"""A model as it was: an exponential moving average, or a snapshot, of a slot."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.context import Context
from ..core.errors import SettingError
from ..core.schedule import Memory, Progress


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
        if self.model is None or (progress.step + 1) % self.every:
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

    def slots(self) -> frozenset[str]:
        """None: nothing that moves lies upstream of it."""
        return frozenset()

    def predict(self, ctx: Context, wants: frozenset[str]) -> Mapping[str, Any]:
        """What the shadow says."""
        model = self.shadow.follow(ctx.workspace.models[self.slot])
        return model.predict(ctx.batch.views[self.sees], wants)


def snapshot(slot: str = "student", *, every: int, sees: str = "main") -> Ema:
    """The slot's weights as they were at the last multiple of ``every`` steps."""
    return Ema(slot, rate=1.0, sees=sees, every=every)
