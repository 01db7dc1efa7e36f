"""Optimisers: AdamW over what moves, and its state as plain tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from ..core.errors import SettingError, StoreError
from ..core.schedule import Progress, Warmup
from ..models.adapter import trains
from .settings import TrainSettings


def learning_rate(settings: TrainSettings, progress: Progress) -> float:
    """The rate of a step: warm-up, then constant, a line or half a cosine."""
    if settings.schedule == "constant":
        end, cosine = 1.0, False
    else:
        end, cosine = settings.final_share, settings.schedule == "cosine"
    return settings.learning_rate * Warmup(settings.warmup_share, end, cosine)(progress)


def adamw(modules: Iterable[tuple[str, nn.Module]], settings: TrainSettings, factor: float = 1.0) -> torch.optim.AdamW:
    """AdamW over the parameters that move; weight decay only on matrices (norms and biases keep their size).

    Raises:
        SettingError: When nothing is left to train, or a name in ``freeze`` matches nothing.
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    unused = set(settings.freeze)
    for _, module in modules:
        for name, parameter in module.named_parameters():
            hit = {f for f in settings.freeze if f in name}
            unused -= hit
            if hit or not trains(module, name):
                parameter.requires_grad_(False)
            elif parameter.requires_grad:
                (matrices if parameter.dim() > 1 else vectors).append(parameter)
    if unused:
        raise SettingError(
            "train.freeze",
            got=f"{sorted(unused)}, in no parameter's name",
            expected="parts of parameter names",
            remedy="E.g. 'embed_tokens' or 'lm_head'; a wrong name would silently freeze nothing.",
        )
    if not matrices and not vectors:
        raise SettingError("train", got="no parameter that trains", expected="at least one", remedy="Freeze less.")
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=settings.learning_rate * factor,
        betas=(settings.beta1, settings.beta2),
        fused=True,
    )


def to_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by ``index.name``, in parameter order."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": v if isinstance(v, Tensor) else torch.tensor(v) for i, s in state.items() for k, v in s.items()}


def like(optimizer: torch.optim.Optimizer) -> Callable[[str], Tensor | None]:
    """By the name of a tensor of the state, the parameter whose shape it has; None for those that have their own."""
    params = [p for g in optimizer.param_groups for p in g["params"]]

    def found(key: str) -> Tensor | None:
        index, name = key.split(".", 1)
        return params[int(index)] if name.startswith("exp_avg") and int(index) < len(params) else None

    return found


def from_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put a state back.

    Raises:
        StoreError: When the shapes are not those of the parameters.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    params = [p for g in optimizer.param_groups for p in g["params"]]
    fits = all(
        i < len(params) and ("exp_avg" not in s or s["exp_avg"].shape == params[i].shape) for i, s in state.items()
    )
    if not fits:
        raise StoreError(
            "optimiser state",
            got="tensors of other shapes",
            expected="those of the parameters that train",
            remedy="The checkpoint belongs to another model or another `freeze`; start a new run.",
        )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
