"""A copy is the model as it is, with an adapter added to its weights, and what trains later does not move it."""

from __future__ import annotations

import pytest
import torch

from tutelage.core.workspace import Workspace
from tutelage.models.export import export
from tutelage.models.load import load
from tutelage.surgery.copy import Copy

IDS = {"input_ids": torch.arange(9)[None]}


def test_as_the_runner_keeps_it_it_stays_where_it_was(new_causal, tmp_path):
    ws = Workspace(tmp_path)
    ws.models["student"] = student = new_causal("student")
    with torch.no_grad():
        before = student.hidden(IDS)
        kept = load(str(export(Copy("student")(ws), tmp_path / "kept", card={})))
        for parameter in student.model.parameters():
            parameter.add_(0.1)
        assert torch.equal(kept.hidden(IDS), before) and not torch.allclose(student.hidden(IDS), before)


def test_an_adapter_is_added_to_the_weights(new_causal, tmp_path):
    pytest.importorskip("peft")
    from tutelage.models.adapter import adapted

    ws = Workspace(tmp_path)
    ws.models["student"] = student = adapted(new_causal("student"), rank=2)
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        made = Copy("student")(ws)
        assert made.model is made.inner and torch.allclose(made.hidden(IDS), student.hidden(IDS), atol=1e-4)
