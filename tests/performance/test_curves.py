"""Lines and knees of the curves."""

import pytest
from benchmarks.curves import CURVES, Line, curve, knee


def test_a_line_is_found():
    line = Line.fitted([1, 2, 4, 8], [5, 7, 11, 19])
    assert (line.start, line.slope, line.off) == pytest.approx((3, 2, 0))


def test_what_is_no_line_is_off_it():
    assert Line.fitted([1, 2, 4, 8], [1, 4, 16, 64]).off > 0.3


def test_the_knee_is_where_growth_changes():
    assert knee([1, 2, 4, 8, 16], [5, 5, 5, 10, 20]) == 4
    assert knee([1, 2], [1, 2]) is None


def test_each_curve_has_a_name_of_its_own():
    assert len({c.name for c in CURVES}) == len(CURVES)


@pytest.mark.parametrize("name", ["loss, top k", "loss, teachers", "cache, positions stored"])
def test_a_curve_is_measured(name):
    points = curve(name, "cpu", quick=True)["points"]
    assert len(points) == 2
    assert all(seconds > 0 and size > 0 for _, seconds, size in points)
