"""Credit on rows, and a pick checked against another."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from tutelage.core.errors import SettingError
from tutelage.core.record import Piece, Record
from tutelage.core.workspace import Workspace
from tutelage.data.credit import Margins
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.credit import Against, Credit
from tutelage.data.steps.pick import Best

KIT = runpy.run_path(str(Path(__file__).parents[1] / "test_likelihood.py"))
Told, only_bytes, make_tokenizer = KIT["Told"], KIT["only_bytes"], KIT["make_tokenizer"]


def leaning(word, p):
    """Finds tokens of sentences with its word probable, others not."""
    return lambda before, token: p if word in (before + token).rpartition(".")[2] else 0.2


@pytest.fixture
def ws(tmp_path):
    made = Workspace(tmp_path)
    made.models["teacher"] = Told(make_tokenizer(), leaning("T", 0.9))
    made.models["student"] = Told(only_bytes(), leaning("S", 0.9))
    return made


def row(text, name="r", group=""):
    return Record(name, (Piece("Q: "), Piece(text, trains=True)), group=group)


def test_sentences_are_credited_and_counted_on_the_row(ws):
    (out,) = run_steps((Credit(),), [row("Too. So. Be. Ton. ")], ws)
    assert [s["label"] for s in out.fields["credit"]] == ["teacher", "student", "common", "teacher"]
    assert [s["span"] for s in out.fields["credit"]] == [[0, 4], [4, 8], [8, 12], [12, 18]]
    assert out.notes == {
        "from_teacher": 2, "from_student": 1, "shared": 0, "boosted": 0, "common": 1,
        "sentences": 4, "teacher_share": 0.5, "length": 18,
    }  # fmt: skip
    assert Record.from_dict(json.loads(json.dumps(out.to_dict()))) == out
    assert ws.ledger.get("teacher", "predict").calls == ws.ledger.get("student", "predict").calls == 1


def test_a_third_model_tells_shared_from_boosted(ws):
    ws.models["distilled"] = Told(make_tokenizer(), leaning("B", 0.9))
    (out,) = run_steps((Credit(distilled="distilled"),), [row("Too. So. Be. No.")], ws)
    assert [s["label"] for s in out.fields["credit"]] == ["teacher", "student", "boosted", "shared"]
    assert set(out.fields["credit"][0]["p"]) == {"teacher", "student", "distilled"}


def test_selection_counts_takes_the_first_of_ties_and_a_single_candidate():
    """Check 5: absolute, so that 4 of 10 sentences beat 3 of 4."""
    def rows(counts):
        return [Record(f"{n}", (), notes={"from_teacher": float(c), "teacher_share": c / s}, group="g") for n, (c, s) in enumerate(counts)]

    def picked(counts, by="from_teacher"):
        return [r.id for r in run_steps((Best(1, by),), rows(counts), None)]

    assert picked([(3, 4), (4, 10)]) == ["1"] and picked([(3, 4), (4, 10)], "teacher_share") == ["0"]
    assert picked([(2, 5), (4, 5), (4, 9)]) == ["1"] and picked([(0, 3)]) == ["0"]


def test_a_pick_is_checked_against_the_longest(ws):
    """The control that the card asks for: how often the longest answer would have been picked."""
    rows = [row("Too. Ton. ", "a0", "a"), row("So. So. So. So. ", "a1", "a"), row("Too. Too. ", "b0", "b"), row("Be.", "b1", "b")]
    steps = (Credit(), Against(Best(1, "from_teacher"), Best(1, "length")))
    assert [r.id for r in run_steps(steps, rows, ws)] == ["a0", "b0"]
    name = "from_teacher against length"
    assert (ws.ledger.get(name, "same").calls, ws.ledger.get(name, "other").calls) == (1, 1)


def test_a_margin_that_is_found_sees_all_answers_to_a_prompt(ws):
    assert Credit().reads == "row" and Credit(margins=Margins(beta=None)).reads == "group"
    rows = [row("Too. So. ", "a0", "a"), row("Be. Be. ", "a1", "a")]
    out = list(run_steps((Credit(margins=Margins(beta=None)),), rows, ws))
    assert [r.notes["from_teacher"] for r in out] == [1, 0]


def test_batches_change_nothing(ws):
    rows = [row("Too. So. ", "a"), row("", "b"), row("Be. " * 5, "c"), row("Ton.", "d")]
    whole = list(run_steps((Credit(),), rows, ws))
    assert list(run_steps((Credit(batch_size=1),), rows, ws)) == whole
    assert whole[1].notes["sentences"] == whole[1].notes["teacher_share"] == 0


def test_sentences_beyond_a_context_are_left_out_and_counted(ws):
    ws.models["student"].max_positions = 8
    (out,) = run_steps((Credit(),), [row("Too. So. Be. ")], ws)
    assert out.notes["sentences"] == 1 and ws.ledger.get("credit", "unread").calls == 2


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"student": "teacher"}, {"distilled": "student"}])
def test_bad_settings(settings):
    with pytest.raises(SettingError, match="Credit"):
        Credit(**settings)
