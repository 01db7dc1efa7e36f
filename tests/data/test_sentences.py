"""Sentences tile any text, and end where a writer pauses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.sentences import Sentences

CODE = "Run this:\n```python\nx = a. b; print('Hi. There')\n```\nIt works. Done"
ALPHABET = "aB1 .!?…。\n\r\t\"')`*$😀é\u0301\x00\u2028"


def cut(text):
    return [text[a:b] for a, b in Sentences()(text)]


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet=ALPHABET, max_size=40)))
def test_spans_tile_any_text_and_none_is_empty(text):
    spans = Sentences()(text)
    assert [a for a, _ in spans] == [0, *(b for _, b in spans)][: len(spans)]
    assert all(a < b for a, b in spans) and (spans[-1][1] if spans else 0) == len(text)


@pytest.mark.parametrize(
    "text, sentences",
    [
        ("", []),
        ("one", ["one"]),
        ("Pi is 3.14. So 2 pi is 6.28!", ["Pi is 3.14.", " So 2 pi is 6.28!"]),
        ("Use e.g. this, cf. Fig. 2 and Eq. 3. See No. 5. No. Never.", ["Use e.g. this, cf. Fig. 2 and Eq. 3.", " See No. 5.", " No.", " Never."]),
        ("Mr. Smith met George W. Bush and Dr. Who. They left.", ["Mr. Smith met George W. Bush and Dr. Who.", " They left."]),
        ("So x = A. Then B.", ["So x = A.", " Then B."]),
        ('"Really?" he said. (Yes.) **Bold.** Next $x=3.$ And', ['"Really?" he said.', " (Yes.)", " **Bold.**", " Next $x=3.$", " And"]),
        ("1. First. Second.\n2. Third\n\n  indented", ["1. First.", " Second.\n", "2. Third\n\n", "  indented"]),
        ("See example.org/a.b. Call f.g() now.", ["See example.org/a.b.", " Call f.g() now."]),
        ("Wait... what? Hm… Ok?! 😀 Fine.", ["Wait... what?", " Hm…", " Ok?!", " 😀 Fine."]),
        ("你好。今天很好！好", ["你好。", "今天很好！", "好"]),
        ("a\r\nb\r\n\r\nC", ["a\r\n", "b\r\n\r\n", "C"]),
        ("One.\n---\n***\nTwo.", ["One.\n---\n***\n", "Two."]),
        ("...", ["..."]),
        (CODE, ["Run this:\n", "```python\n", "x = a. b; print('Hi. There')\n```\n", "It works.", " Done"]),
    ],
)  # fmt: skip
def test_where_sentences_end(text, sentences):
    assert cut(text) == sentences


def test_it_prints_what_it_is():
    """Rows are kept under the steps' printed form."""
    assert repr(Sentences()) == "Sentences()"
