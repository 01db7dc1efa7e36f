"""What tests of recipes share: updates, graded rollouts with exact ids, and dense log-probabilities of their tokens."""

from __future__ import annotations

import runpy
from pathlib import Path

import torch

from tutelage.core.catalog import build
from tutelage.core.context import Context
from tutelage.core.needs import stages
from tutelage.core.recipe import Train
from tutelage.core.record import Piece, Record
from tutelage.data.collate import Collate
from tutelage.voices import Says

TESTS = Path(__file__).parents[1]
TRAINING, CONTRACTS = (runpy.run_path(str(TESTS / name / "conftest.py")) for name in ("training", "contracts"))
RUNNING = runpy.run_path(str(TESTS / "running" / "conftest.py"))
EQUIVALENCE = runpy.run_path(str(TESTS / "equivalence" / "kit.py"))
world, worst, setting, Fixed = TRAINING["world"], TRAINING["worst"], CONTRACTS["setting"], CONTRACTS["Fixed"]
teacher_folder, data_folder, new_run = (RUNNING[n] for n in ("teacher_folder", "data_folder", "new_run"))
limit, trains, step, same, nonzero = (EQUIVALENCE[n] for n in ("limit", "trains", "step", "same", "nonzero"))


def stage(name, **arguments) -> Train:
    """The first Train stage of a recipe."""
    return next(s for s in stages(build(name, arguments).stages) if isinstance(s, Train))


def rollouts(world, right=(1, 0, 1, 1, 0), log_prob=-2.0, reply=""):
    """Graded rows of exact ids, two to a group, of 2 to 6 tokens; with ``reply`` an observation parts them in two turns."""
    rows = []
    for i, (record, grade) in enumerate(zip(world.records, right, strict=True)):
        ids = tuple(5 + (3 * i + k) % 20 for k in range(2 + i))
        own = log_prob if isinstance(log_prob, (tuple, list)) else (log_prob,) * len(world.records)
        parts = (ids[:1], ids[1:]) if reply else (ids,)
        pieces = [record.pieces[0]]
        for number, part in enumerate(parts):
            if number:
                pieces.append(Piece(reply, "user", part="observation"))
            notes = {name: (float(own[i]),) * len(part) for name in ("log_prob", "drawn")}
            pieces.append(Piece("", "assistant", "student", "answer", True, part, notes, "eos"))
        rows.append(Record(record.id, tuple(pieces), {"reference": "yes " * (i + 1)}, {"right": float(grade)}, f"g{i // 2}"))
    return rows


def context(world, rows, views=None, voices=None) -> Context:
    """A context over the rows, without gradient."""
    batch = Collate(world.tokenizer, 256, views or {})(rows)
    speakers = {slot: Says(slot) for slot in world.ws.models} | dict(voices or {})
    with torch.no_grad():
        return Context(batch, speakers, {who: frozenset({"next"}) for who in speakers}, workspace=world.ws)


def size(grads):
    """The largest entry of a gradient."""
    return max(float(g.abs().max()) for g in grads.values())
