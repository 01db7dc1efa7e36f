from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.core.errors import DataError, SettingError
from tutelage.core.record import Piece, Record
from tutelage.data.collate import Collate
from tutelage.data.steps.split import Split

THINK = Split(r"(?P<thinking>.*?)</think>(?P<final>.*)")


def answered(tokenizer, content):
    ids = (*tokenizer(content, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
    notes = {"log_prob": tuple(-float(n) for n in range(len(ids)))}
    piece = Piece(content, "assistant", "student", "answer", True, ids, notes, "eos")
    return Record("a", (Piece("q", "user"), piece))


def test_parts_of_a_data_answer(kit, ws):
    (row,) = THINK(iter([kit.chat("a", "q", "hm </think> four")]), ws)
    assert [(p.content, p.part) for p in row.pieces[1:]] == [
        ("hm ", "thinking"),
        ("</think>", "answer"),
        (" four", "final"),
    ]


@given(first=st.text("ab é漢\n", max_size=8), last=st.text("ab é漢\n", max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exact_ids_and_units_stay_what_they_were(ws, tokenizer, first, last):
    record = answered(tokenizer, f"{first}</think>{last}")
    (row,) = THINK(iter([record]), ws)
    parts = row.pieces[1:]
    assert tuple(i for p in parts for i in p.ids) == record.pieces[1].ids
    assert "".join(p.content for p in parts) == record.pieces[1].content
    assert [p.stop for p in parts] == [""] * (len(parts) - 1) + ["eos"]
    collate = Collate(tokenizer, 128)
    before, after = collate([record]), collate([row])
    assert before.units["tokens"].target.tolist() == after.units["tokens"].target.tolist()
    assert before.notes["tokens.log_prob"].tolist() == after.notes["tokens.log_prob"].tolist()
    assert before.views["main"].at.tolist() == after.views["main"].at.tolist()


def test_each_token_goes_where_its_text_begins(ws, tokenizer):
    record = answered(tokenizer, "the cat</think> sat")
    (row,) = THINK(iter([record]), ws)
    texts = {p.part: tokenizer.decode(p.ids, skip_special_tokens=True) for p in row.pieces[1:]}
    assert texts["thinking"] == "the cat" and texts["final"] == " sat"


def test_what_does_not_match_stays(ws, kit, tokenizer):
    record = answered(tokenizer, "no thought")
    assert list(THINK(iter([record]), ws)) == [record]
    prompt = replace(record, pieces=(Piece("x</think>y", "user"),))
    assert list(THINK(iter([prompt]), ws)) == [prompt]


def test_bad_patterns(ws, kit):
    with pytest.raises(SettingError, match="regular expression"):
        Split("(")
    with pytest.raises(SettingError, match="Name the parts"):
        Split("(a)")
    with pytest.raises(DataError, match="inside another"):
        list(Split("(?P<one>a(?P<two>b))")(iter([kit.chat("a", "q", "ab")]), ws))
