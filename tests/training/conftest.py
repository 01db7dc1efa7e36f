"""A small world to train in: a tiny pair, ragged chat rows, and one step's gradients under any split."""

from types import SimpleNamespace

import pytest

from tutelage.core.record import Piece, Record
from tutelage.core.schedule import Progress
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.training.step import Plan, run_update
from tutelage.voices.says import Says


def row(name, prompt, answer, group=""):
    pieces = (Piece(prompt, "user"), Piece(answer, "assistant", part="answer", trains=True))
    return Record(name, pieces, {}, {"right": float(len(answer) % 2)}, group)


RAGGED = [
    ("a", "Say it.", "yes"),
    ("b", "Count to ten, slowly.", "one two three four five six seven eight nine ten"),
    ("c", "?", "a"),
    ("d", "Name a colour and say why you like it", "green, as the grass is"),
    ("e", "Hello there", "Hello! How are you today, my friend?"),
]


@pytest.fixture
def world(tiny_pair, tmp_path):
    ws = Workspace(tmp_path / "ws", 3)
    ws.models.update(teacher=tiny_pair.teacher, student=tiny_pair.student)
    records = [row(*r, group=f"g{i // 2}") for i, r in enumerate(RAGGED)]

    def gradients(update, *, size=99, rows=records, scale=1.0, voices=None, **how):
        collate = Collate(tiny_pair.tokenizer, 128, **how)
        for model in ws.models.values():
            model.model.requires_grad_(False).eval()
        student = tiny_pair.student.model
        student.requires_grad_(True).train()
        student.zero_grad()
        plan = Plan.of(update, {slot: Says(slot) for slot in ws.models} | dict(voices or {}))
        batches = [collate(part) for part in split(rows, size)]
        outcome = run_update(
            plan, batches, ws, Progress("train", 0, 10), backward=lambda v: (v * scale).backward(),
            reduce=lambda t: t, inside=lambda f: f(),
        )
        return {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}, outcome

    return SimpleNamespace(gradients=gradients, records=records, ws=ws, tokenizer=tiny_pair.tokenizer, pair=tiny_pair, row=row)


def worst(a, b):
    """Largest difference between two gradients, relative to the largest entry."""
    scale = max(float(x.abs().max()) for x in b.values())
    return max(float((a[n] - b[n]).abs().max()) for n in b) / scale


@pytest.fixture(scope="session")
def difference():
    return worst

