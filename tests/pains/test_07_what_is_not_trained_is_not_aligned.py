"""Pain 7: elsewhere the index that says what to leave out was accepted and never applied, so prompts and padding were in
the loss. Here no chunk holds a prompt's token on either side, and no value depends on the padding of either view."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core.catalog import build
from tutelage.core.context import Context
from tutelage.core.schedule import Progress
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.voices.says import Says

KIT = runpy.run_path(str(Path(__file__).parents[1] / "voices" / "kit.py"))
ROWS = runpy.run_path(str(Path(__file__).parents[1] / "data" / "test_foreign.py"))["ROWS"]


@pytest.fixture(scope="module")
def pair():
    return {"student": KIT["causal"]("student", KIT["byte_tokenizer"](), seed=2), "teacher": KIT["causal"]("teacher", KIT["bpe_tokenizer"](), seed=1)}


def loss_of(pair, batch):
    (stage,) = build("alm").stages
    ws = Workspace(Path())
    ws.models.update(pair)
    pair["student"].model.requires_grad_(True).zero_grad()
    ctx = Context(batch, {"student": Says("student"), **stage.voices}, {}, frozenset({"student"}), ws, Progress())
    values = ctx(stage.updates[0].objective[0].loss)
    values.sum().backward()
    return values.detach(), pair["student"].model.get_input_embeddings().weight.grad.clone()


def test_no_value_depends_on_padding_or_packing(pair):
    tokenizers = pair["student"].tokenizer, pair["teacher"].tokenizer
    found = [loss_of(pair, Collate(tokenizers[0], 256, foreign={"teacher": tokenizers[1]}, **how)(ROWS)) for how in ({}, {"padding": "left"}, {"pack": True})]
    for values, grad in found[1:]:
        assert torch.allclose(values, found[0][0], atol=1e-4) and torch.allclose(grad, found[0][1], atol=1e-4)


def test_prompts_are_in_no_chunk_and_padding_is_never_read(pair):
    tokenizers = pair["student"].tokenizer, pair["teacher"].tokenizer
    batch = Collate(tokenizers[0], 256, foreign={"teacher": tokenizers[1]})(ROWS)
    answers = sum(len(p.content.encode()) + 1 for r in ROWS for p in r.trained())
    assert int((batch.units["tokens"].part_of["teacher.chunks"] >= 0).sum()) == answers == len(batch.units["tokens"])
    values, _ = loss_of(pair, batch)
    for view in batch.views.values():
        view.inputs["input_ids"][view.inputs["attention_mask"] == 0] = 7
    assert torch.allclose(loss_of(pair, batch)[0], values, atol=1e-5)
