"""A note holds the values of a signal when the rows were made, and collate hands them back unit by unit."""

from dataclasses import replace

import pytest
import torch

from tutelage.core.context import Context
from tutelage.core.record import Piece, Record
from tutelage.core.signal import Noted, Read
from tutelage.core.voice import Says
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.note import Note
from tutelage.signals.pools import GroupNorm, RowMean
from tutelage.signals.readouts import LogProb, gap


@pytest.fixture
def world(tiny_pair, tmp_path):
    ws = Workspace(tmp_path, 5)
    ws.models.update(teacher=tiny_pair.teacher, student=tiny_pair.student)
    rows = [Record(f"r{i}", (Piece("say " * (i + 1), "user"),)) for i in range(3)]
    return ws, rows, tiny_pair.tokenizer


def values(signal, rows, ws, tokenizer):
    with torch.no_grad():
        return Context(Collate(tokenizer, 200)(rows), {s: Says(s) for s in ws.models}, {}, workspace=ws)(signal)


def test_the_samplers_log_probabilities_are_those_of_a_note(world):
    ws, rows, tokenizer = world
    noted = list(run_steps((Ask("student", max_tokens=6), Note("now", LogProb())), rows, ws))
    for record in noted:
        (piece,) = record.trained()
        assert torch.allclose(torch.tensor(piece.notes["now"]), torch.tensor(piece.notes["log_prob"]), atol=1e-4)
    assert torch.allclose(
        values(Noted("now"), noted, ws, tokenizer), values(LogProb(), noted, ws, tokenizer), atol=1e-5
    )


def test_a_note_stays_when_the_model_moves(world):
    ws, rows, tokenizer = world
    noted = list(run_steps((Ask("student", max_tokens=6), Note("gap", gap())), rows, ws))
    before = values(Noted("gap"), noted, ws, tokenizer)
    with torch.no_grad():
        for p in ws.models["student"].model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert torch.equal(before, values(Noted("gap"), noted, ws, tokenizer))
    assert not torch.allclose(before, values(gap(), noted, ws, tokenizer))


def test_rows_groups_and_data_pieces(world):
    ws, rows, tokenizer = world
    assert Note("x", LogProb()).reads == "row"
    norm = Note("fair", GroupNorm(RowMean(LogProb(Read("teacher")))))
    assert norm.reads == "group"
    noted = list(run_steps((Ask("student", times=4, max_tokens=5), norm), rows, ws))
    for group in {r.group for r in noted}:
        inside = [r.notes["fair"] for r in noted if r.group == group]
        assert len(inside) == 4 and sum(inside) == pytest.approx(0, abs=1e-4)
    data = [replace(r, pieces=(*r.pieces, Piece("well, yes", "assistant", trains=True))) for r in rows]
    (first, *_) = run_steps((Note("now", LogProb()),), data, ws)
    assert torch.allclose(values(Noted("now"), [first], ws, tokenizer), values(LogProb(), [first], ws, tokenizer))
