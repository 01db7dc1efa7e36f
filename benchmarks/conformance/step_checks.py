"""Checks of a whole training step: the gradient that reaches the optimiser, against float64 row by row."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import oracle, tiny
from .asked import Adapter, Row, Scene, Stepped
from .check import Check, Found

EXACT = 1e-4
RELATIVE = "relative error of the student's gradient"
ROOT = Path(__file__).parents[2]
WHOLE = len(tiny.rows())


def apart(got: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """The norm of the difference of two gradients relative to the second's."""
    pairs = [(got.get(name, torch.zeros_like(g)), g) for name, g in exact.items()]
    scale = torch.stack([g.norm() for _, g in pairs]).norm()
    return float(torch.stack([(a - g).norm() for a, g in pairs]).norm() / scale)


def scaled(got: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> tuple[float, float]:
    """The factor that turns the exact gradient into what was got as nearly as possible, and the error that is left."""
    dot = sum(float((got[name] * g).sum()) for name, g in exact.items())
    factor = dot / sum(float(g.square().sum()) for g in exact.values())
    return factor, apart(got, {name: factor * g for name, g in exact.items()}) if factor else 1.0


def nearest(
    scene: Scene, stepped: Stepped, power: int, rules: Sequence[str] = tuple(oracle.RULES)
) -> tuple[float, str]:
    """The smallest error over some rules of which positions train, and the rule."""
    factor = scene.temperature**power
    found = []
    for rule in rules:
        exact = oracle.step(scene, stepped.rows, oracle.RULES[rule])
        found.append((apart(stepped.gradients, {n: g * factor for n, g in exact.items()}), rule))
    return min(found)


def ragged(adapter: Adapter, scene: Scene) -> Stepped:
    """A step; its answers must differ in length and one of them must have ended, else it would show nothing."""
    stepped = adapter.step(scene)
    lengths = {len(row.answer) for row in stepped.rows}
    if len(lengths) == 1 or not any(row.answer[-1] == tiny.END for row in stepped.rows):
        raise RuntimeError(f"{adapter.name}: answers of {sorted(lengths)} tokens show nothing")
    return stepped


def _positions(adapter: Adapter) -> Found:
    scene = Scene(tiny.rows(), WHOLE)
    stepped = ragged(adapter, scene)
    exact = apart(stepped.gradients, oracle.step(scene, stepped.rows))
    error, rule = nearest(scene, stepped, adapter.temperature_power)
    return Found(exact, f"what trains: {rule} (error {error:.1e})")


def _end(adapter: Adapter) -> Found:
    """Whether leaving the end of the text out describes the step better than leaving it in."""
    scene = Scene(tiny.rows(), WHOLE)
    stepped = ragged(adapter, scene)
    with_end = [rule for rule in oracle.RULES if rule != "no end of text"]
    error, rule = nearest(scene, stepped, adapter.temperature_power, with_end)
    ended = sum(row.answer[-1] == tiny.END for row in stepped.rows)
    return Found(error, f"{ended} of {len(stepped.rows)} answers end; what trains: {rule}")


def _same(**changes: Any) -> Callable[[Adapter], Found]:
    """The measurement of a step that must be the oracle's, whichever rule of positions the framework follows."""
    scene = Scene(tiny.rows(), WHOLE, **changes)

    def measure(adapter: Adapter) -> Found:
        return Found(nearest(scene, adapter.step(scene), adapter.temperature_power)[0])

    return measure


def _padding(adapter: Adapter) -> Found:
    scene = Scene(tiny.rows(), WHOLE)
    return Found(nearest(scene, ragged(adapter, scene), adapter.temperature_power)[0])


def _accumulated(adapter: Adapter) -> Found:
    scene = Scene(tiny.rows(), 1)
    return _divided(adapter, scene, ragged(adapter, scene))


def _divided(adapter: Adapter, scene: Scene, stepped: Stepped) -> Found:
    """The error, and what explains it: a constant factor, or a mean of the micro-batches' means."""
    error, rule = nearest(scene, stepped, adapter.temperature_power)
    if error <= EXACT:
        return Found(error)
    means = {
        name: apart(stepped.gradients, oracle.step(scene, stepped.rows, one, mean_of_means=1))
        for name, one in oracle.RULES.items()
    }
    best = min(means, key=means.__getitem__)
    factor, off = scaled(stepped.gradients, oracle.step(scene, stepped.rows, oracle.RULES[rule]))
    if off < EXACT:
        return Found(error, f"{factor:.3g} times the gradient")
    return Found(error, f"a mean of micro-batch means to {means[best]:.1e}" if means[best] < EXACT else "")


def _processes(adapter: Adapter) -> Found:
    """Two processes, one row a forward pass; every process must hold the gradient of all rows."""
    scene = Scene(tiny.rows(), 1)
    adapter.step(scene)  # what has no trainer says so here
    stepped = together(adapter, scene, 2)
    rows = tuple(row for one in stepped for row in one.rows)
    found = [_divided(adapter, scene, Stepped(one.gradients, rows)) for one in stepped]
    worst = max(found, key=lambda f: f.figure)
    between = apart(stepped[1].gradients, stepped[0].gradients)
    note = f"the processes' gradients differ by {between:.1e}" if between > EXACT else worst.note
    return Found(worst.figure, note)


def _temperature(adapter: Adapter) -> Found:
    scene = Scene(tiny.rows(), WHOLE, temperature=2.0)
    power = adapter.temperature_power
    return Found(nearest(scene, adapter.step(scene), power)[0], f"T^{power} KL" if power else "KL, without T^2")


def _teacher(adapter: Adapter) -> Found:
    """A teacher with dropout of a half in its attention, which must rest and stay as it is."""
    scene = Scene(tiny.rows(), WHOLE, dropout=0.5)
    stepped = adapter.step(scene)
    error, _ = nearest(scene, stepped, adapter.temperature_power)
    return Found(float("inf") if stepped.teacher_touched else error, "touched" if stepped.teacher_touched else "")


def together(adapter: Adapter, scene: Scene, count: int) -> list[Stepped]:
    """The same step by some processes at once; what each of them saw."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for rank in range(count):
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "RANK": str(rank)}
            more = {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
            asked = [adapter.name, json.dumps(dataclasses.asdict(scene)), str(Path(folder) / f"{rank}.pt")]
            command = [sys.executable, "-m", "benchmarks.conformance.worker", *asked]
            running.append(
                subprocess.Popen(command, cwd=ROOT, env=os.environ | where | more, stdout=subprocess.DEVNULL)
            )
        codes = [process.wait(timeout=300) for process in running]
        if any(codes):
            raise RuntimeError(f"{adapter.name}: its processes ended with {codes}")
        said = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(count)]
    return [Stepped(one["gradients"], tuple(Row(tuple(p), tuple(a)) for p, a in one["rows"])) for one in said]


def _check(name: str, pains: tuple[int, ...], measure: Callable[[Adapter], Found]) -> Check:
    return Check(name, pains, EXACT, RELATIVE, measure)


CHECKS = (
    _check("What predicts an answer trains, and nothing else", (4, 10, 11), _positions),
    _check("The end of a text trains where it also pads", (12,), _end),
    _check("Padding leaves no trace", (14, 15), _padding),
    _check("Accumulation does not change the gradient", (1, 2, 3, 4), _accumulated),
    _check("Two processes do not change the gradient", (2,), _processes),
    _check("A soft cap is part of the model (Gemma 2)", (6,), _same(family="gemma2")),
    _check("A logit scale is part of the model (Cohere)", (6,), _same(family="cohere")),
    _check("The trainer's temperature softens both sides", (5, 22, 23), _temperature),
    _check("The teacher rests and stays as it is", (17, 24), _teacher),
    _check("The teacher's head is padded, in training", (25,), _same(teacher_extra=8)),
)
