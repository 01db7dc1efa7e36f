"""A whole run in a folder: a tiny teacher saved as a user would have it, two data files, and a RunFile over them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tutelage.models.export import export

WORKER = Path(__file__).with_name("worker.py")
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "red", "green", "blue", "then", "there", "in", "the", "end"]


def rows(start: int, count: int) -> list[dict[str, str]]:
    """Ragged prompts and completions, none twice."""
    made = []
    for i in range(start, start + count):
        said = [WORDS[(3 * i + j) % len(WORDS)] for j in range(2 + i % 4)]
        made.append({"id": f"q{i}", "prompt": f"Say {i}: {' '.join(said[:2])}?", "completion": " ".join(said)})
    return made


def write_rows(path: Path, some: list[dict[str, Any]]) -> Path:
    """Rows as JSONL."""
    path.write_text("".join(json.dumps(r) + "\n" for r in some))
    return path


@pytest.fixture(scope="session")
def teacher_folder(new_causal, tmp_path_factory) -> Path:
    """A tiny teacher as a Hugging Face folder."""
    return export(new_causal("teacher", seed=1), tmp_path_factory.mktemp("models") / "teacher", card={"licence": "mit"})


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Path:
    """``train.jsonl`` of 12 rows and ``held.jsonl`` of 4 others."""
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "train.jsonl", rows(0, 12))
    write_rows(folder / "held.jsonl", rows(40, 4))
    return folder


@pytest.fixture(scope="session")
def write_jsonl() -> Callable[[Path, list[dict[str, Any]]], Path]:
    """The writer of data files."""
    return write_rows


@pytest.fixture
def new_run(teacher_folder: Path, data_folder: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A maker of RunFiles, as tables; keywords with ``__`` go into its sub-tables."""

    def make(output: str | Path = "runs", **changes: Any) -> dict[str, Any]:
        table: dict[str, Any] = {
            "recipe": "strong_to_weak",
            "name": "tiny",
            "seed": 5,
            "output": str(tmp_path / output),
            "args": {"max_tokens": 6},
            "models": {"teacher": str(teacher_folder), "student": {"shrink": {"layers": 2, "num_records": 6}}},
            "data": {
                name: {"path": str(data_folder / file), "chat": True}
                for name, file in (("train", "train.jsonl"), ("held_out", "held.jsonl"))
            },
            "train": {
                "batch_size": 4, "micro_batch_size": 2, "max_length": 96, "learning_rate": 3e-3,
                "checkpoint_seconds": 1e-9, "imitate": {"steps": 4}, "correct": {"steps": 3},
            },
            "evaluate": {"num_records": 4, "num_samples": 1, "max_tokens": 5},
        }  # fmt: skip
        for key, value in changes.items():
            *path, last = key.split("__")
            inner = table
            for part in path:
                inner = inner.setdefault(part, {})
            if value is None:
                inner.pop(last, None)
            else:
                inner[last] = value
        return table

    return make


class Forks:
    """A process that has everything imported and runs each job in a fork of itself, so a kill costs a second."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, table: dict[str, Any], **how: Any) -> dict[str, Any]:
        """Run a RunFile; ``kill="imitate 2"`` kills it with signal 9 after that step, ``kill="stage NAME"`` at a start."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"run": table, **how}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """The forking process."""
    made = Forks()
    yield made
    made.process.stdin.close()  # type: ignore[union-attr]
    made.process.wait()
