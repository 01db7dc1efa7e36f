"""What the peers' trainers share: settings of one plain step on a processor, and what the student was given."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..asked import Row, Scene


def one_step(scene: Scene) -> dict[str, Any]:
    """Arguments of the trainers: one step over all rows in float32, plain gradient descent, nothing clipped."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return dict(
        output_dir=tempfile.mkdtemp(), max_steps=1, use_cpu=True, bf16=False, report_to="none", optim="sgd",
        max_grad_norm=0.0, save_strategy="no", logging_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
        per_device_train_batch_size=scene.micro_batch,
        gradient_accumulation_steps=len(scene.rows) // (scene.micro_batch * world),
    )  # fmt: skip


@contextmanager
def read_by(student: torch.nn.Module, scene: Scene) -> Iterator[list[Row]]:
    """Filled with the rows that the student reads while gradients are recorded."""
    found: list[Row] = []

    def before(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled() or kwargs.get("input_ids") is None:
            return
        for ids, mask in zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True):
            found.append(_row(tuple(ids[mask.bool()].tolist()), scene))

    handle = student.base_model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def _row(ids: tuple[int, ...], scene: Scene) -> Row:
    prompts = [row.prompt for row in scene.rows if ids[: len(row.prompt)] == row.prompt]
    length = max(map(len, prompts))
    return Row(ids[:length], ids[length:])
