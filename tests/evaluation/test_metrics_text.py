"""Figures of written answers: known answers, and a naive BLEU as the oracle."""

import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.evaluation.metrics.text import (
    bleu,
    distinct,
    exact_match,
    last_number,
    length_stats,
    numeric_match,
    repetition_share,
    self_bleu,
)

NUMBERS = {
    "so 48 + 24 = 72\n#### 72": 72, "The answer is $1,234.50.": Fraction(2469, 2), "10-5": 5, "x = -5": -5, "-$5": -5,
    "$-5": -5, "it is 3/4 of it": Fraction(3, 4), "1 1/2 cups": Fraction(3, 2), "50%": 50, "is \u22127 degrees": -7,
    r"\frac{3}{4}": Fraction(3, 4), r"-\dfrac{1}{2}": Fraction(-1, 2), "1e3 metres": 1000, "3/0": 0, "costs .5": Fraction(1, 2),
    "it is 18.": 18, "#### 18 in 3 ways": 18, "#### none, but 4": 4, "#### -1,000": -1000, r"\boxed{42}": 42, "**18**": 18,
    "12 eggs/day": 12, "<<5*3=15>>15 apples": 15, "\u20ac3.10": Fraction(31, 10), "no number": None, "": None, "v2.5.1": None,
    "9" * 5000: None, "1e99999999": None,
}  # fmt: skip


@pytest.mark.parametrize(("text", "number"), NUMBERS.items(), ids=[t[:20] for t in NUMBERS])
def test_the_last_number(text, number):
    got = last_number(text)
    if text.startswith("1e9"):
        assert got is None or got < 10**100  # a power that would fill the memory is not formed
    else:
        assert got == number


@settings(deadline=None, max_examples=60)
@given(st.integers(-(10**9), 10**9), st.sampled_from(["{:,}", "{}", "${:,}", "{:,}.00", "about {} apples.", "#### {}"]))
def test_every_form_of_a_number_is_the_number(value, form):
    assert last_number("first 3, then " + form.format(value)) == value


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_any_text_is_read_without_an_error(text):
    assert numeric_match(text, text) == (last_number(text) is not None)


def test_matches():
    assert numeric_match("She has 18 left", "9 * 2 = 18\n#### 18") and not numeric_match("She has 17", "#### 18")
    assert numeric_match("3.00", "#### 3") and numeric_match("0.75", "3/4") and not numeric_match("0.33", "1/3")
    assert numeric_match("0.3333", "1/3", tolerance=1e-3) and not numeric_match("none", "#### 3")
    assert exact_match(" a  b\n", "a b") and not exact_match("A b", "a b")


def test_distinct_and_repetition():
    assert distinct([[1, 2, 1, 2]], 2) == pytest.approx(2 / 3)
    assert distinct([[1, 2], [1, 2]], 2) == 0.5 and math.isnan(distinct([[1]], 2))
    assert repetition_share([1, 2, 3, 4, 1, 2, 3, 4], 4) == pytest.approx(1 / 5) and repetition_share([1], 4) == 0
    assert repetition_share([7] * 20, 4) == pytest.approx(16 / 17)


def naive_bleu(answer, references):
    logs = []
    for n in range(1, min(4, len(answer)) + 1):
        grams = [tuple(answer[i : i + n]) for i in range(len(answer) - n + 1)]
        hit = 0
        for gram, count in Counter(grams).items():
            in_refs = [sum(tuple(r[i : i + n]) == gram for i in range(len(r) - n + 1)) for r in references]
            hit += min(count, max(in_refs, default=0))
        if hit == 0:
            return 0.0
        logs.append(math.log(hit / len(grams)))
    if not logs:
        return 0.0
    size = sorted((abs(len(r) - len(answer)), len(r)) for r in references)[0][1]
    return math.exp(sum(logs) / len(logs)) * (1 if len(answer) >= size else math.exp(1 - size / len(answer)))


ANSWERS = st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=2, max_size=5)


@settings(deadline=None, max_examples=80)
@given(ANSWERS)
def test_self_bleu_equals_the_naive_mean(answers):
    expected = [naive_bleu(a, answers[:i] + answers[i + 1 :]) for i, a in enumerate(answers)]
    assert self_bleu(answers) == pytest.approx(sum(expected) / len(expected))
    assert bleu(answers[0], answers[1:]) == pytest.approx(expected[0])


def test_self_bleu_ends():
    assert self_bleu([[1, 2, 3, 4, 5]] * 3) == pytest.approx(1) and self_bleu([[1, 2], [3, 4]]) == 0
    assert math.isnan(self_bleu([[1, 2]]))


def test_the_known_bleu_of_papineni():
    """The unigram example of the paper: clipping leaves 2 of 7, and no bigram matches."""
    assert bleu(["the"] * 7, [["the", "cat", "is", "on", "the", "mat"]], order=1) == pytest.approx(2 / 7)


def test_length_stats():
    assert length_stats([]) == {} and length_stats([3]) == {"num": 1, "mean": 3, "median": 3, "p95": 3, "max": 3}
    stats = length_stats(list(range(101)))
    assert stats["median"] == 50 and stats["p95"] == 95 and stats["mean"] == 50
