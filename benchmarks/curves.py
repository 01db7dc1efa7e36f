"""How time and memory grow: of the loss, of a step, of rollouts, of a cache and with processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from . import grown
from .common import Result, fresh


@dataclass(frozen=True)
class Curve:
    """One quantity that grows while all others stand.

    Args:
        name: What is measured, and against what.
        of: The quantity on the horizontal axis.
        points: Its values.
        setting: What stands.
        measure: A function of ``grown``: ``(device, points) -> [(seconds, bytes), ...]``.
        law: What time and memory should do, and why.
    """

    name: str
    of: str
    points: tuple[int, ...]
    setting: str
    measure: Callable[..., list[tuple[float, int]]]
    law: str


CURVES = (
    Curve(
        "loss, positions", "positions", (128, 256, 512, 1024, 2048), "D = 256, V = 16,384", grown.positions,
        "Time is a straight line: every position costs the same four products. Memory is the head's gradient and a "
        "chunk of both models' logits, which grows until it is full: the knee. After it only the gradient of the "
        "hidden states grows.",
    ),
    Curve(
        "loss, vocabulary", "tokens", (4096, 8192, 16_384, 32_768, 65_536), "P = 256, D = 256",
        grown.vocabulary,
        "Time is a straight line. Memory is the head's gradient and the chunk of logits, until that is full; after it "
        "the head's gradient alone grows.",
    ),
    Curve(
        "loss, hidden size", "numbers a state", (64, 128, 256, 512, 1024), "P = 256, V = 16,384", grown.hidden,
        "Time is a line that does not start at 0: the softmax and the divergence cost the same at any size. Memory is "
        "a line too, the head's gradient, on top of the chunk of logits.",
    ),
    Curve(
        "loss, top k", "k", (1, 8, 64, 512, 4096), "P = 256, D = 256, V = 16,384, rest as one bucket",
        grown.top_k,
        "Time is flat while the products and the normalisers of the whole vocabulary, which the exact rest needs, are "
        "most of it; the knee is where sorting and gathering k of them is no longer small. Memory stands.",
    ),
    Curve(
        "loss, teachers", "teachers", (1, 2, 4, 8), "P = 256, D = 256, V = 16,384, each with its own head",
        grown.teachers,
        "Time is a line: one product and one divergence a teacher, on top of the student's three products. Memory is a "
        "line: one chunk of logits a teacher.",
    ),
    Curve(
        "step, positions", "positions", (512, 1024, 2048, 4096), "micro-batches of 4 rows of 128 tokens",
        grown.step,
        "Time is a straight line. Memory stands: micro-batches are as large as before, and only their number grows.",
    ),
    Curve(
        "step, rollouts a prompt", "rollouts", (1, 2, 4, 8), "4 prompts of 64 tokens, 32 new tokens each",
        grown.rollouts,
        "Time starts above 0 and grows less than in proportion at first: a prompt is read once however often it is "
        "answered, and a token of a small batch costs nearly what it costs in a large one. Then it is a line. Memory "
        "stands until the answers to one prompt, which a micro-batch keeps together, are more than its 4 rows.",
    ),
    Curve(
        "cache, positions stored", "positions", (1024, 4096, 16_384, 32_768), "32 rows of 64 positions read, k = 50",
        grown.cache,
        "Time is flat: a row is found by a hash in a sorted list. The bytes are those on the disk, a straight line.",
    ),
    Curve(
        "step, processes", "processes", (1, 2, 4), "16 rows of 128 tokens a step in all, one thread a process",
        grown.processes,
        "Time falls up to the number of cores and not beyond: this shows that processes share the work and what "
        "exchanging gradients costs on one machine, not what a network would. Memory is of one process.",
    ),
)  # fmt: skip


def curve(name: str, device: str, quick: bool) -> dict[str, list[list[float]]]:
    """A curve's points, ``[x, seconds, bytes]`` each."""
    found = next(c for c in CURVES if c.name == name)
    points = found.points[:2] if quick else found.points
    measured = found.measure(device, points, 1 if quick else 7)
    return {"points": [[x, *got] for x, got in zip(points, measured, strict=True)]}


@dataclass(frozen=True)
class Line:
    """``y = start + slope x``, fitted so that relative errors are small; ``off`` is the largest of them."""

    start: float
    slope: float
    off: float

    @classmethod
    def fitted(cls, xs: list[float], ys: list[float]) -> Line:
        """Least squares of ``(start + slope x) / y - 1``."""
        a = [(1 / y, x / y) for x, y in zip(xs, ys, strict=True)]
        aa, ab, bb = (sum(p[i] * p[j] for p in a) for i, j in ((0, 0), (0, 1), (1, 1)))
        sa, sb = sum(p[0] for p in a), sum(p[1] for p in a)
        start = (sa * bb - sb * ab) / (aa * bb - ab * ab)
        slope = (sb - start * ab) / bb
        return cls(start, slope, max(abs((start + slope * x) / y - 1) for x, y in zip(xs, ys, strict=True)))


def knee(xs: list[float], ys: list[float]) -> float | None:
    """Where growth changes most: the point between whose sides the power of x differs most; None under three points."""
    logs = [math.log(b / a) / math.log(d / c) for (a, b), (c, d) in zip(pairwise(ys), pairwise(xs), strict=True)]
    changes = [abs(after - before) for before, after in pairwise(logs)]
    return xs[1 + changes.index(max(changes))] if changes else None


def facts_of(one: Curve, points: list[list[float]]) -> dict[str, Any]:
    """What a curve is of, and what its points say: a line and a knee, of time and of memory."""
    xs, seconds, sizes = ([float(p[i]) for p in points] for i in range(3))
    megabytes = [max(size, 1.0) / 1e6 for size in sizes]
    return {
        "of": one.of,
        "setting": one.setting,
        "law": one.law,
        "time": asdict(Line.fitted(xs, seconds)) | {"knee": knee(xs, seconds)},
        "memory": asdict(Line.fitted(xs, megabytes)) | {"knee": knee(xs, megabytes)},
    }


def run(device: str, quick: bool) -> Result:
    """The table, and for each curve its line."""
    rows: list[tuple[Any, ...]] = []
    facts: dict[str, Any] = {}
    for one in CURVES:
        points = fresh("benchmarks.curves:curve", name=one.name, device=device, quick=quick)["points"]
        rows += [(one.name, x, taken, size / 1e6) for x, taken, size in points]
        facts[one.name] = facts_of(one, points)
    return Result(
        "curves",
        "Seconds of the shortest of 7 calls after one, float32, and the most bytes of tensors held at once, the inputs "
        "not counted; for the cache, bytes on the disk.",
        {"curves": facts},
        ("curve", "x", "seconds", "MB"),
        tuple(rows),
    )
