"""Logs: ``metrics.jsonl`` always, trackers when asked, and whoever else listens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..core.errors import StoreError, missing_extra
from .checkpoint import write_text
from .distributed import Processes


class Listener(Protocol):
    """Whoever follows a run: a progress display, a test."""

    def stage(self, name: str, num_steps: int, done: int) -> None:
        """A stage starts, or goes on after ``done`` steps."""
        ...

    def step(self, metrics: Mapping[str, Any]) -> None:
        """A step was taken."""
        ...

    def note(self, text: str) -> None:
        """Something to be said once."""
        ...


class Silent:
    """Nobody listens."""

    def stage(self, name: str, num_steps: int, done: int) -> None:
        """Nothing."""

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class Metrics:
    """``metrics.jsonl``: one line a step; on resume, lines after the checkpoint are cut off, so none stands twice."""

    def __init__(self, path: Path, processes: Processes) -> None:
        self.path, self.processes = path, processes

    def rewind(self, stage: str, step: int) -> None:
        """Drop the stage's lines beyond a step, and a torn last line."""
        if not self.processes.main or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row.get("stage") != stage or row.get("step", 0) <= step:
                kept.append(line)
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a line and tell the trackers."""
        numbers = {k: v for k, v in row.items() if isinstance(v, (int, float)) and k != "step"}
        if self.processes.accelerator.log_with:
            self.processes.accelerator.log({f"{row['stage']}/{k}": v for k, v in numbers.items()}, step=row["step"])
        if not self.processes.main:
            return
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
        except OSError as error:
            raise StoreError(
                f"log {self.path}",
                got=str(error),
                expected="room to write",
                remedy="Free some space and run the same command to go on.",
            ) from error


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse a tracker that is not installed, before anything runs."""
    import importlib.util

    for name in names:
        if importlib.util.find_spec("tensorboard" if name == "tensorboard" else name) is None:
            raise missing_extra(f"train.log = [{name!r}]", name, "track")
