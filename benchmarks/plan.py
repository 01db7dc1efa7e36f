"""What `plan` predicts beside what `run` then takes: memory at the peak, seconds of a later step, seconds in all.

The real pair on GSM8K chats. Each setting is planned in one fresh process and run in another. Memory is the most that
the process ever held, libraries included; the run's seconds are from its start to its report, imports aside.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from tutelage.running import runfile
from tutelage.running.api import run as start
from tutelage.running.plan import plan
from tutelage.training.log import Silent

from .common import Result, fresh, peak_bytes
from .pair import LAYERS, PROBLEMS, TEACHER, problems

STEPS = 5
CHATS: dict[str, Any] = {"path": PROBLEMS, "columns": {"prompt": "question", "completion": "answer"}, "chat": True}
FOUR: dict[str, Any] = {"batch_size": 4, "micro_batch_size": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "one row at a time, measured before and after": {
        "train": {"batch_size": 2, "micro_batch_size": 1},
        "data": {"held_out": {**CHATS, "skip": 64, "limit": 8}},
        "evaluate": {"num_samples": 1, "max_tokens": 32},
    },
    "pairs of problems, prompts too": {
        "args": {"trains": "all"}, "train": {"batch_size": 4, "micro_batch_size": 2, "pack": False}, "joined": 2,
    },
    "computed again": {"train": {**FOUR, "pack": False, "gradient_checkpointing": True}},
    "on-policy, 48 tokens": {"recipe": "opd", "args": {"max_tokens": 48}, "train": FOUR},
    "LoRA of rank 16": {"student": {"lora": {"rank": 16}}, "train": FOUR},
    "four rows, packed": {"train": FOUR},
    "teacher cache, top 50": {
        "teacher": {"cache": {"form": "top", "rest": "even"}}, "train": {"batch_size": 2, "micro_batch_size": 2},
    },
}  # fmt: skip


class Seconds(Silent):
    """Seconds of each training step."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Keep a step's."""
        if "loss" in metrics:
            self.taken.append(metrics["time"])


def planned(name: str, steps: int) -> dict[str, Any]:
    """The prediction."""
    with tempfile.TemporaryDirectory() as folder:
        made = plan(runfile.validate(_file(name, steps, Path(folder))))
    trains = next(s for s in made.stages if s.does == "trains")
    return {
        "bytes": sum(made.memory.values()),
        "parts": made.memory,
        "step": trains.step_seconds,
        "seconds": sum(s.seconds or 0.0 for s in made.stages),
        "stages": {s.name: s.seconds for s in made.stages},
    }


def measured(name: str, steps: int) -> dict[str, Any]:
    """The run."""
    follow = Seconds()
    with tempfile.TemporaryDirectory() as folder:
        file = _file(name, steps, Path(folder))
        begin = perf_counter()
        start(file, listener=follow)
        seconds = perf_counter() - begin
    return {"bytes": peak_bytes("cpu"), "step": statistics.mean(follow.taken[1:]), "seconds": seconds}


def _file(name: str, steps: int, folder: Path) -> dict[str, Any]:
    setting = SETTINGS[name]
    train: dict[str, Any] = {**CHATS, "limit": 64}
    if setting.get("joined"):
        train = {"path": str(_joined(folder, int(setting["joined"]))), "chat": True}
    teacher: dict[str, Any] = {"load": TEACHER, **setting.get("teacher", {})}
    if "cache" in teacher:
        teacher["cache"] = {"folder": str(folder / "cache"), **teacher["cache"]}
    student = {"shrink": {"layers": LAYERS, "refit": False}, **setting.get("student", {})}
    return {
        "recipe": setting.get("recipe", "forward_kl"),
        "name": "benchmark",
        "output": str(folder),
        "args": setting.get("args", {}),
        "models": {"teacher": teacher, "student": student},
        "data": {"train": train, **setting.get("data", {})},
        "train": {"learning_rate": 1e-5, "steps": steps, **setting["train"]},
        "evaluate": setting.get("evaluate", {}),
    }


def _joined(folder: Path, several: int) -> Path:
    """Longer texts: several problems in one row."""
    rows = [[piece.content for piece in row.pieces] for row in problems(32 * several)]
    file = folder / "joined.jsonl"
    with file.open("w") as out:
        for begin in range(0, len(rows), several):
            prompt, completion = ("\n\n".join(texts) for texts in zip(*rows[begin : begin + several], strict=True))
            out.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
    return file


def run(device: str, quick: bool) -> Result:
    """The table."""
    steps, names = (2, list(SETTINGS)[:1]) if quick else (STEPS, list(SETTINGS))
    rows, parts = [], {}
    for name in names:
        said = fresh("benchmarks.plan:planned", name=name, steps=steps)
        took = fresh("benchmarks.plan:measured", name=name, steps=steps)
        pairs = [(said["bytes"] / 1e9, took["bytes"] / 1e9), (said["step"], took["step"])]
        pairs.append((said["seconds"], took["seconds"]))
        rows.append((name, *(cell for a, b in pairs for cell in (a, b, a / b))))
        parts[name] = {part: f"{size / 1e6:.0f} MB" for part, size in said["parts"].items()}
    return Result(
        "plan",
        f"Forward KL where nothing else is named, float32, AdamW, {steps} steps. Predicted by `plan` in a process of "
        "its own, from shapes and 3 tried steps; a ratio is predicted over measured.",
        {"teacher": "SmolLM2-135M-Instruct", "student": f"its cut of {LAYERS} layers", "seed": 0, "memory": parts},
        ("setting", "GB predicted", "GB measured", "ratio", "s a step predicted", "s a step measured", "ratio ",
         "s in all predicted", "s in all measured", "ratio  "),
        tuple(rows),
    )  # fmt: skip
