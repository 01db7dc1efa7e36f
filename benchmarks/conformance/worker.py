"""One of several processes of a step: `python -m benchmarks.conformance.worker FRAMEWORK SCENE FILE`."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from .asked import Row, Scene
from .suite import adapter_of


def scene_of(said: dict[str, Any]) -> Scene:
    """A scene from its JSON."""
    rows = tuple(Row(tuple(row["prompt"]), tuple(row["answer"])) for row in said["rows"])
    return Scene(**{**said, "rows": rows})


def main(framework: str, scene: str, file: str) -> None:
    """Take the step and write what this process saw."""
    stepped = adapter_of(framework).step(scene_of(json.loads(scene)))
    torch.save({"gradients": stepped.gradients, "rows": [(r.prompt, r.answer) for r in stepped.rows]}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
