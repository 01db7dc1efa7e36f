"""What a run costs, counted at the models: positions read, with and without a gradient, and FLOPs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import nn

from tutelage.running.runner import Runner
from tutelage.training.log import Silent


@dataclass
class Count:
    """A hook that counts what a body reads; copies of the model count here as well.

    FLOPs are two a weight and position, six where a gradient is formed; the head is charged at every position.
    """

    weights: int
    read: int = 0
    trained: int = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = [kwargs.get("input_ids"), kwargs.get("inputs_embeds"), *args]
        first = next(x for x in given if isinstance(x, torch.Tensor))
        num = first.shape[0] * first.shape[1]
        moves = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
        self.trained += num * moves
        self.read += num * (not moves)

    def __deepcopy__(self, memo: object) -> Count:
        return self

    @property
    def flops(self) -> float:
        """All of it so far."""
        return 2.0 * self.weights * (self.read + 3 * self.trained)


@dataclass
class Follower(Silent):
    """A listener that puts a counter at every model and notes what each stage of a run costs.

    Args:
        runner: The run; it may be set later.
    """

    runner: Runner | None = None
    counts: dict[str, Count] = field(default_factory=dict)
    marks: list[tuple[str, float, float]] = field(default_factory=list)
    _known: set[int] = field(default_factory=set)

    def stage(self, name: str, num_steps: int, done: int) -> None:
        """A stage begins: whatever models there are now are counted from here on."""
        assert self.runner is not None
        for slot, model in self.runner.workspace.models.items():
            module = getattr(model, "model", None)
            if isinstance(module, nn.Module) and id(module) not in self._known:
                self._known.add(id(module))
                weights = sum(p.numel() for p in module.parameters())
                count = self.counts.setdefault(slot, Count(weights))
                module.base_model.register_forward_pre_hook(count, with_kwargs=True)  # type: ignore[union-attr]
        self.marks.append((name, self.flops, perf_counter()))

    @property
    def flops(self) -> float:
        """Of all models."""
        return sum(count.flops for count in self.counts.values())

    def spent(self, stages: Iterable[str]) -> tuple[float, float]:
        """FLOPs of these stages, and of all others."""
        inside, ends = 0.0, [*(flops for _, flops, _ in self.marks[1:]), self.flops]
        wanted = set(stages)
        for (name, start, _), end in zip(self.marks, ends, strict=True):
            inside += (end - start) * any(name == w or name.endswith(f"-{w}") for w in wanted)
        return inside, self.flops - inside
