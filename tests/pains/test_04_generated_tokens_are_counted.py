"""Elsewhere the denominator counted the tokens of the data set's answer, not of the completion that was trained on."""

from tutelage.core.schedule import Progress
from tutelage.data.collate import Collate
from tutelage.data.live import Live
from tutelage.data.steps.ask import Ask


def test_units_count_what_was_generated(kit, ws, tokenizer):
    ws.data["prompts"] = [kit.chat(f"q{n}", "two?", "a reference of quite another length " * n) for n in range(1, 5)]
    rows = Live(Ask(max_tokens=5)).draw(Progress("one", 0, 1), ws, 4)
    units = Collate(tokenizer, 200)(rows).units["tokens"]
    written = [row.pieces[-1].ids for row in rows]
    assert len(units) == sum(map(len, written)) <= 20
    assert units.target.tolist() == [i for ids in written for i in ids]
    assert units.row.bincount(minlength=4).tolist() == [len(ids) for ids in written]
