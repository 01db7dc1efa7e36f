"""The catalogue: recipes by file name, arguments checked by type before anything loads."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core import catalog
from tutelage.core.catalog import _fits
from tutelage.core.errors import SettingError, StoreError, UnknownName

FITS = [
    (1, int, True), (1.0, int, False), (True, int, False), (1, float, True), (True, float, False), ("1", float, False),
    ("a", str, True), (1, str, False), (True, bool, True), (1, bool, False), (None, type(None), True),
    (None, int | None, True), (2, int | None, True), ("x", int | None, False), ("x", int | str, True),
    ([1, 2], tuple[int, ...], True), ((1, 2), list[int], True), ([1, "a"], tuple[int, ...], False), (3, tuple[int, ...], False),
    ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False), (1j, Any, True), ([[1.5], [2]], list[list[float]], True),
]  # fmt: skip


@pytest.mark.parametrize("value, hint, fits", FITS, ids=repr)
def test_values_fit_their_hints(value, hint, fits):
    assert _fits(value, hint) is fits


def test_names_are_the_files_and_none_is_a_helper():
    assert {"forward_kl", "reverse_kl", "jensen", "gkd", "seqkd", "opd", "supervised", "strong_to_weak"} <= set(catalog.names())
    assert "base" not in catalog.names() and catalog.names() == sorted(catalog.names())


@settings(deadline=None, max_examples=20)
@given(name=st.sampled_from(catalog.names()), drop=st.integers(0, 5))
def test_a_near_name_is_told(name, drop):
    wrong = name[:drop] + name[drop + 1 :]
    if wrong not in catalog.names():
        with pytest.raises(UnknownName, match="Did you mean") as caught:
            catalog.find(wrong)
        assert repr(name) in str(caught.value)


def test_arguments_are_checked():
    with pytest.raises(UnknownName, match=r"'beta'.*tutelage show gkd"):
        catalog.build("gkd", {"betta": 0.5})
    with pytest.raises(SettingError, match=r"argument 'beta'.*'half'"):
        catalog.build("gkd", {"beta": "half"})
    with pytest.raises(StoreError, match="no such file"):
        catalog.find("nowhere.py")


def test_a_required_argument_that_is_missing_is_told(tmp_path):
    file = tmp_path / "must.py"
    file.write_text(
        "from tutelage.core.recipe import Recipe, recipe\n\n"
        '@recipe(paper="none", family="mine", formula="x")\ndef must(*, share: float) -> Recipe:\n    """Must."""\n    return Recipe(())\n'
    )
    with pytest.raises(SettingError, match="share"):
        catalog.build(str(file))
    assert catalog.build(str(file), {"share": 0.5}).stages == ()
