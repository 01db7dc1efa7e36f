"""Elsewhere, after one fix, on-policy steps included the prompt in the loss."""

import pytest

from tutelage.core.schedule import Progress
from tutelage.data.collate import Collate
from tutelage.data.live import Live
from tutelage.data.source import Corpus, Mixture
from tutelage.data.steps.ask import Ask


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_no_unit_lies_in_a_prompt(kit, ws, tokenizer, share):
    ws.data["prompts"] = ws.data["train"] = [kit.chat(f"q{n}", "12345 " * 9, "ab cd") for n in range(8)]
    source = Mixture(((Live(Ask(max_tokens=4)), share), (Corpus(), 1 - share)), by="row")
    batch = Collate(tokenizer, 200)(source.draw(Progress("one", 0, 1), ws, 8))
    view, units = batch.views["main"], batch.units["tokens"]
    width = view.inputs["input_ids"].shape[1]
    text = {r: tokenizer.decode(view.inputs["input_ids"][r]) for r in range(8)}
    for row in range(8):
        first = int(view.at[units.row == row].min()) % width + 1
        before = tokenizer.decode(view.inputs["input_ids"][row, :first])
        assert before.endswith("<|im_start|>assistant\n") and text[row].startswith(before)
        assert "12345" not in tokenizer.decode(units.target[units.row == row])
