"""Closed-form repair of a model that lost blocks or channels: least squares, no training.

Block j of the student stands for the teacher's blocks ``keep[j] ... keep[j + 1] - 1``. With the student's own stream x
entering it, r the stream after its attention and u the input of its ``down_proj``, the block gives ``r + u W^T``. The
new W is the ridge solution

    min_W  sum_t w_t^2 || y_t - r_t - u_t W^T ||^2  +  lam || W - W_0 ||_F^2
    W = W_0 + ((G + lam I)^-1 C)^T,  G = sum w^2 u^T u,  C = sum w^2 u^T (y - r - u W_0^T),  lam = ridge * mean diag G

where y is the teacher's stream that enters its block ``keep[j + 1]`` (the last: its final stream), and w_t is the
inverse length of the residual, limited to five times its mean: a few positions carry streams a thousand times longer
than the others and would decide everything. Blocks are solved in order, each on the stream its predecessors, already
refitted, really give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ModelError, SettingError
from ..models.body import Body, resting

Rows = Sequence[Sequence[int]]
POSITIONS = 2048  # padded positions of a calibration batch
LIMIT = 5.0  # the largest weight of a position, over the mean


@dataclass
class Calibration:
    """One batch of calibration rows on its way through the student.

    Args:
        stream: Float[B T D], what enters the student's next block.
        real: Bool[B T], True where a token is.
        targets: For each student block, the teacher's stream it should give: Float[P D] over real positions.
        settings: For each student block, the keyword arguments its forward takes.
    """

    stream: Tensor
    real: Tensor
    targets: list[Tensor]
    settings: list[dict[str, Any]]


@torch.no_grad()
def refit(
    teacher: Body,
    student: Body,
    keep: Sequence[int],
    rows: Rows,
    *,
    channels: Tensor | None = None,
    ridge: float = 0.1,
) -> None:
    """Re-solve each block's ``down_proj`` in place so that the student's stream follows the teacher's.

    Args:
        teacher: The whole model.
        student: The cut one, its block j made from the teacher's block ``keep[j]``.
        keep: The teacher's blocks that the student has, rising.
        rows: Calibration token ids; 5,000 to 20,000 positions are enough for a hundred million parameters.
        channels: Int[D'], the stream channels that a narrower student has; None means all.
        ridge: Pull towards the old weight, relative to the mean square of the inputs; above 0.

    Raises:
        ModelError: The blocks have no ``mlp.down_proj``.
        SettingError: The ridge is not above 0, or there is nothing to calibrate on.
    """
    check_refit(student, rows, ridge)
    with resting(teacher.model), resting(student.model):
        batches = [_calibrate(teacher, student, keep, batch, channels) for batch in _batches(rows)]
        for number, block in enumerate(student.layers):
            _solve(block, number, batches, ridge)


def check_refit(causal: Body, rows: Rows, ridge: float) -> None:
    """Raise unless a refit of this model with these settings can work."""
    if not ridge > 0:
        raise SettingError("refit.ridge", got=repr(ridge), expected="a number above 0", remedy="The default is 0.1.")
    if not any(len(row) for row in rows):
        raise SettingError(
            "refit",
            got="no calibration tokens",
            expected="rows of token ids",
            remedy="Give calibration rows, or set refit=False for a plain cut.",
        )
    for block in causal.layers:
        if not isinstance(getattr(getattr(block, "mlp", None), "down_proj", None), nn.Linear):
            raise ModelError(
                f"refit of model {causal.name!r}",
                got=f"{type(block).__name__} without a linear mlp.down_proj",
                expected="blocks as in Llama, Qwen or Mistral",
                remedy="Set refit=False for a plain cut.",
            )


def _batches(rows: Rows) -> Iterator[list[Sequence[int]]]:
    """Rows of like length together, at most ``POSITIONS`` padded positions."""
    batch: list[Sequence[int]] = []
    for row in sorted((r for r in rows if len(r)), key=len):
        if batch and (len(batch) + 1) * len(row) > POSITIONS:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _calibrate(
    teacher: Body, student: Body, keep: Sequence[int], rows: list[Sequence[int]], channels: Tensor | None
) -> Calibration:
    """One pass of the teacher: its streams where student blocks end, and how its blocks are called."""
    device = teacher.device
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        real[place, : len(row)] = True
    ids, real = ids.to(device), real.to(device)
    ends = [*(k - 1 for k in keep[1:]), teacher.num_layers - 1]
    narrow = (lambda h: h) if channels is None else (lambda h: h[..., channels])
    targets: dict[int, Tensor] = {}
    settings: dict[int, dict[str, Any]] = {}
    first: list[Tensor] = []

    def before(number: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            settings[number] = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            if number == 0:
                first.append(narrow(args[0] if args else kwargs["hidden_states"]))

        return hook

    def after(number: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            targets[number] = narrow(stream[real])

        return hook

    blocks = teacher.layers
    hooks = [blocks[k].register_forward_pre_hook(before(k), with_kwargs=True) for k in {0, *keep}]
    hooks += [blocks[k].register_forward_hook(after(k)) for k in ends]
    with _removed(hooks):
        teacher.hidden({"input_ids": ids, "attention_mask": real.long()})
    return Calibration(first[0].clone(), real, [targets[k] for k in ends], [settings[k] for k in keep])


@contextmanager
def _removed(hooks: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _solve(block: nn.Module, number: int, batches: list[Calibration], ridge: float) -> None:
    down: nn.Linear = block.mlp.down_proj  # type: ignore[union-attr,assignment]
    width_in, width_out = down.in_features, down.out_features
    gram = torch.zeros(width_in, width_in, dtype=torch.float64, device=down.weight.device)
    cross = torch.zeros(width_in, width_out, dtype=torch.float64, device=down.weight.device)
    passed = [_run(block, down, batch, number) for batch in batches]
    residuals = [
        (batch.targets[number] - given[batch.real]).float() for batch, (_, given) in zip(batches, passed, strict=True)
    ]
    weights = _weights(residuals)
    for batch, (inputs, _), residual, weight in zip(batches, passed, residuals, weights, strict=True):
        scaled = inputs[batch.real].float() * weight
        gram += scaled.T @ scaled
        cross += scaled.T @ (residual * weight)
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    change = torch.cholesky_solve(cross, torch.linalg.cholesky(gram)).T.to(down.weight.dtype)
    down.weight += change
    for batch, (inputs, given) in zip(batches, passed, strict=True):
        batch.stream = given + inputs @ change.T


def _run(block: nn.Module, down: nn.Linear, batch: Calibration, number: int) -> tuple[Tensor, Tensor]:
    """What enters ``down_proj`` and what the block gives: Float[B T F], Float[B T D]."""
    seen: list[Tensor] = []
    with _removed([down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))]):
        out = block(batch.stream, **batch.settings[number])
    return seen[0], out[0] if isinstance(out, tuple) else out


def _weights(residuals: list[Tensor]) -> list[Tensor]:
    """Inverse lengths, with mean 1 over all positions, limited: Float[P 1] a batch."""
    weights = [1 / (r.norm(dim=-1, keepdim=True) + 1e-6) for r in residuals]
    mean = sum(float(w.double().sum()) for w in weights) / sum(map(len, weights))
    return [(w / mean).clamp(max=LIMIT) for w in weights]
