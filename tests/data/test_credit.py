"""Which model a sentence is credited to, and where the margin lies that parts the classes."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tutelage.core.errors import SettingError
from tutelage.data.credit import BOOSTED, COMMON, LABELS, SHARED, STUDENT, TEACHER, Margins, between

PROBS = st.lists(st.tuples(*[st.floats(0, 1)] * 3), max_size=12)


def columns(rows):
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3).unbind(1)


def oracle(t, s, d, alpha=0.05, beta=0.1):
    if d is not None and max(abs(t - s), abs(s - d), abs(t - d)) <= alpha:
        return "shared"
    if t - s > beta:
        return "teacher"
    if s - t > beta:
        return "student"
    return "common" if d is None else "boosted"


@given(PROBS)
def test_the_first_class_that_holds_against_a_loop(rows):
    t, s, d = columns(rows)
    assert [LABELS[i] for i in Margins()(t, s, d).tolist()] == [oracle(*row) for row in rows]
    assert [LABELS[i] for i in Margins()(t, s).tolist()] == [oracle(*row[:2], None) for row in rows]


@given(PROBS)
def test_teacher_equal_to_students_is_all_shared(rows):
    """Check 1, first half."""
    t, _, _ = columns(rows)
    assert set(Margins()(t, t, t).tolist()) <= {SHARED}


def test_a_distilled_student_that_is_the_teacher_far_from_the_student_is_all_teacher():
    """Check 1, second half."""
    t, s = torch.tensor([0.9, 0.5, 0.3]), torch.tensor([0.1, 0.2, 0.05])
    assert Margins()(t, s, t).tolist() == [TEACHER] * 3


@given(PROBS)
def test_swapping_teacher_and_student_swaps_their_labels_and_no_others(rows):
    """Check 2."""
    t, s, d = columns(rows)
    swapped = {TEACHER: STUDENT, STUDENT: TEACHER}
    for more in ((d,), ()):
        assert Margins()(s, t, *more).tolist() == [swapped.get(i, i) for i in Margins()(t, s, *more).tolist()]


def test_limits_belong_to_the_class_within():
    t, s = torch.tensor([0.25, 0.375, 0.0]), torch.tensor([0.125, 0.125, 0.125])
    assert Margins(0.125, 0.125)(t, s, s).tolist() == [SHARED, TEACHER, SHARED]
    assert Margins(0.0, 0.125)(t, s, s).tolist() == [BOOSTED, TEACHER, BOOSTED]
    assert Margins(0.0, 0.125)(t, s).tolist() == [COMMON, TEACHER, COMMON]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_the_margin_that_is_found_is_the_best_cut_of_all(values):
    ordered = numpy.sort(numpy.array(values))
    got = between(torch.tensor(values, dtype=torch.float64))
    if ordered[0] == ordered[-1]:
        assert got == 0.1
        return
    best = [k * (len(ordered) - k) * (ordered[k:].mean() - ordered[:k].mean()) ** 2 for k in range(1, len(ordered))]
    cuts = [(ordered[k - 1] + ordered[k]) / 2 for k in range(1, len(ordered)) if best[k - 1] >= max(best) - 1e-9]
    assert any(abs(got - min(max(c, 0.05), 0.15)) < 1e-6 for c in cuts)


def test_the_margin_that_is_found_parts_two_heaps():
    values = torch.tensor([0.01, 0.02, 0.03, 0.2, 0.22])
    assert between(values) == pytest.approx(0.115)
    assert between(torch.tensor([0.0, 0.9])) == 0.15 and between(torch.tensor([0.0, 0.01])) == 0.05
    assert between(torch.tensor([])) == between(torch.tensor([0.3])) == 0.1
    t = torch.tensor([0.5, 0.5, 0.5])
    assert Margins(beta=None)(t, t - torch.tensor([0.02, 0.12, 0.24])).tolist() == [COMMON, COMMON, TEACHER]


@pytest.mark.parametrize("settings", [{"alpha": -0.1}, {"alpha": 0.2}, {"beta": 1.0}, {"alpha": 0.0, "beta": 0.0}, {"alpha": 0.06, "beta": None}])
def test_margins_outside_their_range(settings):
    with pytest.raises(SettingError, match="alpha <= beta"):
        Margins(**settings)
