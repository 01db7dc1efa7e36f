"""Verifiers: what is right, what is wrong, and what happens when a verifier fails."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest

from tutelage.core.errors import DataError, MissingExtra, SettingError, StoreError, UnknownName
from tutelage.core.record import Piece, Record
from tutelage.core.workspace import Workspace
from tutelage.data.pipeline import run_steps
from tutelage.signals.grades import Exact, Grade, Judge, Number, Schema, Solves, Symbolic, find
from tutelage.signals.grades.numbers import boxed, number
from tutelage.signals.grades.symbols import same


def row(text, stop="eos", **fields):
    pieces = (Piece("Well?", "user", part="prompt"), Piece(text, "assistant", "student", "answer", True, (1, 2), stop=stop))
    return Record("r1", pieces, fields)


@pytest.fixture
def ws(tmp_path):
    return Workspace(tmp_path)


NUMBERS = {
    "so it is 42.": Fraction(42),
    "1,234,567 people": Fraction(1234567),
    "first 3, then 4": Fraction(4),
    "12 * 3 = 36 dollars.\n#### 36": Fraction(36),
    "#### 1,200": Fraction(1200),
    r"hence $\boxed{\frac{3}{4}}$, since 7 is odd": Fraction(3, 4),
    r"\boxed{1{,}000}": Fraction(1000),
    r"\boxed{a = \dfrac{-1}{2}} or 5": Fraction(-1, 2),
    "about 3/8": Fraction(3, 8),
    "-0.5": Fraction(-1, 2),
    "it costs $12.50": Fraction(25, 2),
    "−7 degrees": Fraction(-7),
    "1.5e3 m": Fraction(1500),
    "50%": Fraction(1, 2),
    "x2 and y": None,
    "none": None,
    "1/0": None,
    "9" * 500: None,
    "1e999999999": None,
    "5 - 3": Fraction(-3),
}


@pytest.mark.parametrize("text", NUMBERS, ids=[str(i) for i in range(len(NUMBERS))])
def test_the_number_a_text_ends_on(text):
    assert number(text) == NUMBERS[text]


def test_boxes_close():
    assert boxed(r"\boxed{\frac{1}{2}} and \boxed{x^{2}} then \boxed{open") == "x^{2}"
    assert boxed("none") is None and boxed(r"\boxed{") is None


def test_number_is_exact_and_may_be_tolerant():
    assert Number()(row("0.1 + 0.2 makes 0.3", reference="3/10")) == 1
    assert Number()(row("3.14", reference="3.1416")) == 0 and Number(tolerance=0.01)(row("3.14", reference="3.1416")) == 1
    assert Number()(row("I do not know", reference="4")) == 0 and Number()(row("4", reference=4)) == 1
    with pytest.raises(DataError, match="record 'r1'.*no number in 'four'"):
        Number()(row("4", reference="four"))
    with pytest.raises(DataError, match="a field 'reference' to grade by"):
        Number()(row("4"))


def test_exact_match_after_normalisation():
    assert Exact()(row("  The Eiffel-Tower. ", reference="eiffel tower")) == 1
    assert Exact()(row("Paris", reference=["Lyon", "paris!"])) == 1 and Exact()(row("Rome", reference=["Lyon"])) == 0
    assert Exact(plain=False)(row("Paris \n", reference="Paris")) == 1 and Exact(plain=False)(row("paris", reference="Paris")) == 0


SAME = [
    ("x^2 - 1", "(x-1)(x+1)"), (r"\frac{x}{2}", "0.5x"), (r"\sqrt{8}", r"2\sqrt{2}"), ("2^{10}", "1024"),
    (r"\sin(x)^2 + \cos(x)^2", "1"), (r"\sin^2 x", r"1 - \cos^2{x}"), (r"\sin x^2", r"\sin(x^2)"), ("e^{i\\pi}", "-1"), ("ab", "b a"), ("1/3", r"\frac{1}{3}"),
    (r"\left(\frac{1}{2}\right)^{-2}", "4"), ("-x^2", "-(x^2)"), ("2^3^2", "512"), ("|{-3}|", "3"), (r"\sqrt[3]{27}", "3"), ("log(e)", "1"),
]  # fmt: skip
OTHER = [("x", "y"), ("x^2", "2x"), ("1/3", "0.333"), ("x/(x-x)", "1"), ("(", "1"), ("__import__('os')", "1"), ("9^9^9^9^9", "1"), ("x" * 500, "1"), ("(" * 100 + "1" + ")" * 100, "1")]


@pytest.mark.parametrize("pair", SAME, ids=[str(i) for i in range(len(SAME))])
def test_formulas_that_mean_the_same(pair):
    assert same(*pair) or Symbolic()(row(pair[0], reference=pair[1])) == 1


@pytest.mark.parametrize("pair", OTHER, ids=[str(i) for i in range(len(OTHER))])
def test_formulas_that_do_not_and_texts_that_would_run_long(pair):
    start = time.perf_counter()
    assert not same(*pair)
    assert time.perf_counter() - start < 1


def test_symbolic_takes_the_final_formula_and_lists():
    assert Symbolic()(row("We get\n$y = 2(x + 1)$.", reference="2x+2")) == 1
    assert Symbolic()(row(r"so \boxed{(1, \frac{4}{2})}", reference="(1, 2)")) == 1
    assert Symbolic()(row(r"\boxed{(2, 1)}", reference="(1, 2)")) == 0 and Symbolic()(row(r"\boxed{1,000}", reference="1000")) == 1
    assert Symbolic()(row("", reference="x")) == 0
    with pytest.raises(DataError, match="a formula"):
        Symbolic()(row("x", reference=" "))


def test_schema():
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    assert Schema()(row('Here:\n```json\n{"n": 3}\n```', schema=schema)) == 1 and Schema()(row('{"n": "3"}', schema=schema)) == 0
    for text in ("no json", "", '{"n": NaN}', "[" * 100_000, '{"n": 3} and more'):
        assert Schema()(row(text, schema=schema)) == 0
    assert Schema()(row("3", schema='{"type": "integer"}')) == 1
    for broken in ({"type": "nothing"}, "{"):
        with pytest.raises(DataError, match="schema of record 'r1'"):
            Schema()(row("3", schema=broken))


def test_tasks_grade_their_own_answers():
    from tutelage.data.corpus import read

    pytest.importorskip("reasoning_gym")
    rows = read("tasks:chain_sum?seed=3&max_terms=3", limit=4, skip=2, chat=True)
    assert [r.id for r in rows] == [f"chain_sum-{i}" for i in (2, 3, 4, 5)] and rows == read("tasks:chain_sum?seed=3&max_terms=3", limit=6, chat=True)[2:]
    assert rows[0].fields["reference"] != read("tasks:chain_sum?seed=4&max_terms=3", limit=3)[2].fields["reference"]
    for r in rows:
        piece = Piece(f"hm <answer> {r.fields['reference']} </answer>", "assistant", trains=True)
        stored = Record.from_dict(Record(r.id, (*r.pieces, piece), r.fields).to_dict())
        assert Solves()(stored) == 1
        assert Solves()(Record(r.id, (Piece("banana", trains=True),), r.fields)) < 0.5
    with pytest.raises(UnknownName, match="chain_sum"):
        read("tasks:chain_sums")
    with pytest.raises(SettingError, match="min_term"):
        read("tasks:chain_sum?min_termz=2")
    with pytest.raises(DataError, match="tasks:NAME"):
        Solves()(row("3", task={"name": "chain_sum"}))


def test_a_missing_extra_is_named(monkeypatch):
    import sys

    for name in ("jsonschema", "reasoning_gym", "reasoning_gym.factory"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"tutelage\[grades\]"):
        Schema()(row("3", schema={}))
    from tutelage.data.tasks import read_tasks

    with pytest.raises(MissingExtra, match=r"tutelage\[tasks\]"):
        read_tasks("tasks:leg_counting?seed=77")


def test_grades_are_notes_and_cut_answers_are_wrong(ws):
    rows = [row("4", reference="4"), row("4", "length", reference="4"), row("5", reference="4")]
    assert [r.notes["right"] for r in run_steps((Grade(Number()),), rows, ws)] == [1, 0, 0]
    assert [r.notes["g"] for r in run_steps((Grade(Number(), "g", unfinished=None),), rows, ws)] == [1, 1, 0]
    many = [row("4" if i % 3 else "5", reference="4") for i in range(100)]
    assert [r.notes["right"] for r in run_steps((Grade(Number(), workers=4),), many, ws)] == [float(i % 3 > 0) for i in range(100)]
    assert ws.ledger.get("grade right", "unfinished").calls == 1 and ws.ledger.get("grade right", "graded").calls == 102


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "high", None], ids=str)
def test_a_grade_that_is_no_finite_number_names_the_record(value, ws):
    with pytest.raises(DataError, match="grade 'right' of record 'r1'.*for the answer '4'") as caught:
        list(run_steps((Grade(lambda record: value),), [row("4")], ws))
    assert "last checkpoint are kept" in caught.value.remedy


def test_a_verifier_that_raises_names_the_record_and_keeps_what_was_graded(ws):
    def rule(record):
        return 1 / (record.fields["n"] - 2)

    stream = run_steps((Grade(rule),), [row("a", n=n) for n in (1, 2)], ws)
    with pytest.raises(DataError, match="ZeroDivisionError: division by zero.*'a'") as caught:
        list(stream)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_verifiers_by_name_and_from_a_file(tmp_path):
    assert find("number") == Number() and find("exact") == Exact()
    with pytest.raises(UnknownName, match="'number'"):
        find("numbr")
    file = tmp_path / "short.py"
    file.write_text("def short(record):\n    return len(record.pieces[-1].content) < 3\n")
    assert find(str(file))(row("ab")) == 1 and find(str(file))(row("abc")) == 0
    with pytest.raises(StoreError, match="no such file"):
        find(str(tmp_path / "none.py"))
    for text, match in (("1/0", "ZeroDivisionError"), ("long = 3", "nothing of that kind named 'short'")):
        file.write_text(text)
        with pytest.raises(SettingError, match=match):
            find(str(file))


def test_a_judge_is_asked_and_its_number_is_the_grade(ws, monkeypatch):
    asked, replies = [], iter(["1", "Score: 0.5", "maybe", "7"])
    from tutelage.signals.grades import judge as module

    class Said:
        batch_size = 2

        def __init__(self, who, **how):
            assert who == "judge" and how["temperature"] == 0

        def __call__(self, records, ws):
            for r in records:
                asked.append(r.pieces[0].content)
                yield Record(r.id, (*r.pieces, Piece(next(replies), "assistant", trains=True)))

    monkeypatch.setattr(module, "Ask", Said)
    rows = [row("{reference} it is", reference=f"R{i}") for i in range(4)]
    graded = list(run_steps((Judge(),), rows, ws))
    assert [r.notes["right"] for r in graded] == [1, 0.5, 0, 0]
    assert "Well?" in asked[0] and "R0" in asked[0] and "{reference} it is" in asked[0], "an answer's braces are not filled"
    assert ws.ledger.get("judge right", "unclear").calls == 2
    replies = iter(["maybe"])
    with pytest.raises(DataError, match="'maybe' from judge 'judge'.*from 0 to 10"):
        list(run_steps((Judge(most=10, unclear=None),), rows[:1], ws))
    with pytest.raises(SettingError, match="must see"):
        Judge(question="Good?")
    assert Judge(who="j").asks() == (("j", "text"),)


def test_a_judge_that_is_a_model_writes(ws, tiny_pair):
    ws.models["judge"] = tiny_pair.teacher
    graded = list(run_steps((Judge(max_tokens=3),), [row("4", reference="4")], ws))
    assert 0 <= graded[0].notes["right"] <= 1 and ws.ledger.get("judge", "sample").calls == 1
    assert graded[0].pieces == row("4").pieces


def test_bad_settings():
    with pytest.raises(SettingError):
        Grade(Number(), workers=0)
    assert Grade(Number()).unfinished == 0
