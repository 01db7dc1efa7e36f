"""Profiles against a count by hand."""

from __future__ import annotations

import pytest

from tutelage.core.errors import DataError, SettingError
from tutelage.core.record import Record
from tutelage.evaluation import view
from tutelage.evaluation.provenance import Profiles

LABELS = {"t": "teacher", "s": "student", "b": "boosted", "=": "shared"}


def row(name, labels, right=None):
    notes = {} if right is None else {"right": right}
    return Record(name, (), {"credit": [{"span": [0, 1], "label": LABELS[c]} for c in labels]}, notes)


ROWS = [row("a", "tts", 1.0), row("b", "ts", 1.0), row("c", "sb", 0.0), row("d", "s", 0.0), row("e", "", 0.0)]


def test_shares_profiles_and_the_area_between_right_and_wrong_answers():
    found = Profiles()(ROWS)
    assert found["num_records"] == {"right": 2, "wrong": 3} and found["num_sentences"] == 8
    assert found["shares"]["all"] == {"teacher": 3 / 8, "student": 4 / 8, "boosted": 1 / 8}
    assert found["shares"]["right"] == {"teacher": 3 / 5, "student": 2 / 5, "boosted": 0}
    right, wrong = found["by_position"]["right"], found["by_position"]["wrong"]
    assert [(r["count"], r["teacher"], r["student"]) for r in right] == [(2, 1, 0), (2, 0.5, 0.5), (1, 0, 1)]
    assert [(r["count"], r["student"], r["boosted"]) for r in wrong] == [(2, 1, 0), (1, 0, 1)]
    assert found["area"] == {"teacher": 1.5, "student": 1.5, "boosted": 1.0}
    assert found["lead"] == {"teacher": 1.5, "student": -0.5, "boosted": -1.0}


def test_ungraded_answers_are_one_group():
    found = Profiles(right="")([row("a", "ts"), row("b", "=")])
    assert found["num_records"] == {"right": 2, "wrong": 0} and found["by_position"]["wrong"] == []
    assert set(found["area"].values()) == {0}


def test_later_places_are_cut_but_counted_in_the_shares():
    found = Profiles(longest=1)(ROWS)
    assert len(found["by_position"]["right"]) == 1 and found["num_sentences"] == 8


def test_no_answer_at_all():
    assert Profiles()([])["num_sentences"] == 0


def test_what_is_missing_is_named():
    with pytest.raises(DataError, match="a note 'right'"):
        Profiles()([row("a", "t")])
    with pytest.raises(DataError, match="a field 'credit'"):
        Profiles(right="")([Record("a", ())])
    with pytest.raises(SettingError, match="longest"):
        Profiles(longest=0)


def test_the_page_gets_a_table_and_both_curves():
    (trace,) = view.traces({"systems": {"trace": {"student": {"num_rows": 5, "provenance": Profiles()(ROWS)}}}})
    assert trace["name"] == "trace: student" and trace["sides"] == ["right", "wrong"]
    assert trace["table"]["columns"] == ["all", "right", "wrong", "area", "lead"]
    teacher = next(r for r in trace["table"]["rows"] if r["label"] == "teacher")
    assert [c["text"] for c in teacher["cells"]] == ["37.5\u2009%", "60.0\u2009%", "0.0\u2009%", "1.50", "1.50"]
    (alone,) = view.traces({"systems": {"t": {"s": {"p": Profiles(right="")([row("a", "ts")])}}}})
    assert alone["sides"] == ["right"] and alone["table"]["columns"] == ["all"]
    assert view.traces({}) == [] and view.chains({}) == {}
