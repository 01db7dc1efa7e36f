"""Elsewhere tokens that a tool wrote carried placeholder log-probs of 0.0 and were penalised as if the model had been sure of them."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core.catalog import build
from tutelage.core.errors import DataError
from tutelage.core.record import Piece, Record
from tutelage.core.signal import Noted
from tutelage.data.collate import Collate

TRAINING = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
world, worst = TRAINING["world"], TRAINING["worst"]


def turn(first, tool, second, note=0.0):
    """A model's call, what the tool said with a note of its own, and the model's answer."""

    def wrote(ids):
        sure = (-1.5,) * len(ids)
        return Piece("", "assistant", "student", "answer", True, ids, {"log_prob": sure, "drawn": sure}, "eos")

    said = Piece("tool says", "user", "tool", "result", False, tool, {"log_prob": (note,) * len(tool), "drawn": (note,) * len(tool)})
    return Record("t", (Piece("Look it up.", "user"), wrote(first), said, wrote(second)), {}, {"right": 1.0})


@pytest.mark.parametrize("recipe", ["g_opd_exopd", "scope"])
def test_a_tools_tokens_are_read_and_never_judged(recipe, world):
    first, tool, second = (7, 8, 9), (20, 21, 22, 23), (11, 12)
    rows = [turn(first, tool, second)]
    batch = Collate(world.tokenizer, 64)(rows)
    assert batch.units["tokens"].target.tolist() == [*first, *second]
    assert batch.notes["tokens.log_prob"].tolist() == [-1.5] * 5
    stage = build(recipe, {"max_tokens": 4}).stages[0]
    grads, told = world.gradients(stage.updates[0], rows=rows, voices=stage.voices)
    again, same = world.gradients(stage.updates[0], rows=[turn(first, tool, second, note=-99.0)], voices=stage.voices)
    assert worst(again, grads) == 0 and same.loss == told.loss
    assert {t.count for t in told.tallies.values()} <= {5, 1, 0}
    other, _ = world.gradients(stage.updates[0], rows=[turn(first, (30, 31), second)], voices=stage.voices)
    assert worst(other, grads) > 1e-4, "what the tool said is context"


def test_a_model_tokens_missing_log_prob_is_told_and_not_taken_for_0(world):
    record = turn((7, 8), (20,), (11,))
    bare = replace(record, pieces=(*record.pieces[:3], replace(record.pieces[3], notes={})))
    batch = Collate(world.tokenizer, 64)([bare])
    assert torch.isnan(batch.notes["tokens.log_prob"]).tolist() == [False, False, True]
    stage = build("g_opd_exopd", {"reuse": 2}).stages[0]
    with pytest.raises(DataError, match=r"note 'tokens\.(drawn|log_prob)'.*1 units without it"):
        world.gradients(stage.updates[0], rows=[bare], voices=stage.voices)
    assert Noted("log_prob").over == "tokens"
