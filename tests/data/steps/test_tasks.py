"""Demonstrations in front of a prompt, parts of an answer as fields, and rows that ask for one field each."""

import pytest

from tutelage.core.errors import DataError, SettingError, UnknownName
from tutelage.core.record import Piece, Record
from tutelage.data.pipeline import run_steps
from tutelage.data.render import prompt_ids
from tutelage.data.steps.parse import Parse
from tutelage.data.steps.shots import Shots, Without
from tutelage.data.steps.tasks import Task, Tasks

CUE = Parse(r"(?P<rationale>.*)####(?P<label>.*)")
BOTH = Tasks((Task("label", "predict: ", "label"), Task("rationale", "explain: ", "rationale")))


def solved(name, prompt="q", answer="a"):
    return Record(name, (Piece(prompt, "user"), Piece(answer, "assistant", part="answer", trains=True)))


def test_shots_stand_in_front_and_leave_the_row_itself_out(ws, tokenizer):
    ws.data["demos"] = [solved(f"d{i}", f"question {i}", f"answer {i}") for i in range(4)]
    rows = [Record("x", (Piece("Be brief.", "system"), Piece("question 1", "user")))]
    (row,) = Shots("demos", 2)(iter(rows), ws)
    assert [p.content for p in row.pieces] == ["Be brief.", "question 0", "answer 0", "question 2", "answer 2", "question 1"]
    assert not any(p.trains for p in row.pieces)
    (back,) = Without()(iter([row]), ws)
    assert back == rows[0]
    assert len(prompt_ids(row, tokenizer)) > len(prompt_ids(back, tokenizer))


def test_shots_of_plain_text_are_parted_by_a_blank_line(ws):
    ws.data["demos"] = [Record("d", (Piece("2+2=", "text"), Piece("4", "text", trains=True)))]
    (row,) = Shots("demos", 1)(iter([Record("x", (Piece("3+3=", "text"),))]), ws)
    assert "".join(p.content for p in row.pieces) == "2+2=4\n\n3+3="


def test_bad_demonstrations(ws):
    with pytest.raises(UnknownName, match="demos"):
        list(Shots("demos", 2)(iter([]), ws))
    ws.data["demos"] = [Record("d7", (Piece("q", "user"),))]
    with pytest.raises(DataError, match="d7.*without an answer"):
        list(Shots("demos", 2)(iter([solved("x")]), ws))
    with pytest.raises(SettingError, match="Shots.num"):
        Shots("demos", 0)


def test_parse_splits_at_the_last_cue_and_counts_what_it_drops(ws):
    rows = [solved("a", answer="1 #### 2 #### 3"), solved("b", answer="no cue"), solved("c", answer="#### 4")]
    (row,) = CUE(iter(rows), ws)
    assert row.fields == {"rationale": "1 #### 2", "label": "3"}
    parsed, unparsed = (ws.ledger.get("parse rationale, label", deed).calls for deed in ("parsed", "unparsed"))
    assert (parsed, unparsed) == (1, 2)


def test_parse_of_a_field_with_a_whole_to_fall_back_on(ws):
    gold = Parse(r".*####(?P<label>.*)", of="reference", whole="label")
    rows = [Record(n, (Piece("q", "user"),), {"reference": text}) for n, text in (("a", "why #### 7"), ("b", " yes "), ("c", ""))]
    assert [r.fields["label"] for r in gold(iter(rows), ws)] == ["7", "yes"]


@pytest.mark.parametrize("pattern", ["(", "no groups"])
def test_patterns_that_cannot_work(pattern):
    with pytest.raises(SettingError, match=r"Parse\.pattern"):
        Parse(pattern)


def test_one_row_a_task(ws):
    rows = run_steps((CUE, BOTH), [solved("a", "How many?", "2 and 2 #### 4")], ws)
    label, rationale = rows
    assert (label.id, rationale.id) == ("a:label", "a:rationale") and label.group == rationale.group == "a"
    assert [p.content for p in label.pieces] == ["predict: How many?", "4"]
    assert [p.content for p in rationale.pieces] == ["explain: How many?", "2 and 2"]
    assert label.notes == {"label": 1.0, "rationale": 0.0} and rationale.notes == {"label": 0.0, "rationale": 1.0}


def test_a_task_without_its_field_is_left_out_and_a_row_without_a_prompt_refused(ws):
    (only,) = BOTH(iter([Record("a", (Piece("q", "user"),), {"label": "4"})]), ws)
    assert only.id == "a:label"
    with pytest.raises(DataError, match="no prompt"):
        list(BOTH(iter([Record("a", (), {"label": "4"})]), ws))
    with pytest.raises(SettingError, match="differently named"):
        Tasks((Task("label", "", "x"), Task("label", "", "y")))
