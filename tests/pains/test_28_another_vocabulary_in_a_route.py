"""Pain 28 where several teachers meet: one with another vocabulary would be fed ids that mean other tokens there."""

from __future__ import annotations

import pytest
import torch

from tutelage.core.context import Context
from tutelage.core.errors import NeedError
from tutelage.core.record import Piece, Record
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.voices import Route, Says


def test_a_route_between_vocabularies_is_refused(tiny_pair, new_causal, tmp_path):
    ws = Workspace(tmp_path)
    ws.models.update(teacher=tiny_pair.teacher, other=new_causal("other", vocab_size=300))
    rows = [Record(t, (Piece("ask", "user"), Piece("so", "assistant", trains=True)), {"domain": t}) for t in ("a", "b")]
    voices = {slot: Says(slot) for slot in ws.models} | {"route": Route("domain", (("a", "teacher"), ("b", "other")))}
    ctx = Context(Collate(tiny_pair.tokenizer, 64)(rows), voices, {}, workspace=ws)
    with torch.no_grad(), pytest.raises(NeedError, match=r"route by 'domain'.*vocabularies of \[262, 300\].*one tokenizer"):
        ctx.say("route")
