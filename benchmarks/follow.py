"""Whole runs of the real pair, followed step by step, as our users and TRL's start them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import Any

from tutelage.running.api import run
from tutelage.training.log import Silent

from .common import highest, start_peak
from .pair import LAYERS, PROBLEMS, TEACHER


class Follow(Silent):
    """Seconds and positions of each step, and the most memory held while training."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def stage(self, name: str, num_steps: int, done: int) -> None:
        """Forget the peak of loading."""
        start_peak("cpu")

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Keep the step's row."""
        self.rows.append({**metrics, "peak": highest("cpu")})


def ours(recipe: str, args: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's run on GSM8K chats: seconds and trained positions by step, peak bytes, first loss."""
    follow = Follow()
    columns = {"prompt": "question", "completion": "answer"}
    with tempfile.TemporaryDirectory() as folder:
        file = {
            "recipe": recipe,
            "name": "benchmark",
            "output": folder,
            "args": dict(args),
            "models": {"teacher": {"load": TEACHER}, "student": {"shrink": {"layers": LAYERS, "refit": False}}},
            "data": {"train": {"path": PROBLEMS, "columns": columns, "chat": True, "limit": 64}},
            "train": {"learning_rate": 1e-5, **train},
        }
        run(file, listener=follow)
    return {
        "seconds": [row["time"] for row in follow.rows],
        "tokens": [row["positions"] for row in follow.rows],
        "peak": max(row["peak"] for row in follow.rows),
        "loss": follow.rows[0]["loss"],
    }


def clock() -> tuple[Any, list[float]]:
    """A callback of transformers' trainers, and the seconds of each step that it notes."""
    from transformers import TrainerCallback

    taken: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            taken.append(time.perf_counter() - self.start)

    return Clock(), taken


PLAIN = {  # settings of transformers' trainers that the setting names, or that keep them from writing files
    "use_cpu": True, "learning_rate": 1e-5, "gradient_checkpointing": False, "report_to": [], "save_strategy": "no",
    "logging_steps": 1, "seed": 0, "disable_tqdm": True,
}  # fmt: skip
