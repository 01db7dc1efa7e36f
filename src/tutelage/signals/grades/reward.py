"""Rewards of two parts: an answer that is right, in the form that was asked for."""

from __future__ import annotations

from ...core.signal import Noted, Signal
from .grade import Grade, find

RIGHT, FORM = Noted("right", "rows"), Noted("form", "rows")


def rewarded(verifier: str, form: str = "") -> tuple[tuple[Grade, ...], Signal]:
    """The steps that grade a row, and its reward ``right + form``; without a form the reward is rightness alone.

    An answer that its length cut off is not right, but may have the form.

    Args:
        verifier: What says right or wrong, as for ``find``; note ``right``.
        form: What says whether the form is right, as for ``find``; note ``form``. Empty leaves it out.
    """
    right = Grade(find(verifier))
    return ((right, Grade(find(form), "form", unfinished=None)), RIGHT + FORM) if form else ((right,), RIGHT)
