"""What a recipe needs of whom, and a text of it that is the same in every process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tutelage.core import catalog
from tutelage.core.describe import describe, digest
from tutelage.core.errors import NeedError
from tutelage.core.needs import LOG_PROBS, SCORES, TEXT, WHITE_BOX, check, needs
from tutelage.core.recipe import Recipe, Repeat, Train
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update
from tutelage.core.uses import uses
from tutelage.data.source import Corpus
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match, Top, squared_error


def recipe_of(loss) -> Recipe:
    return Recipe((Repeat("again", (Train("t", Corpus(), (Update((Term("x", loss),)),)),), 2),))


def test_needs():
    assert needs(catalog.build("supervised")) == {"student": {"next.target", "weights"}}
    assert needs(catalog.build("seqkd"))["teacher"] == {"text"}
    assert needs(catalog.build("opd")) == {"student": {"next", "text", "weights"}, "teacher": {"next"}}
    assert needs(recipe_of(Match(kl_forward, on=Top(4))))["teacher"] == {"next.top"}
    hidden = recipe_of(Match(squared_error, Read("student", "hidden.1"), Read("teacher", "hidden.2")))
    assert needs(hidden)["teacher"] == {"hidden"}


@pytest.mark.parametrize(
    "recipe, gives, fits",
    [("seqkd", TEXT, True), ("forward_kl", TEXT, False), ("forward_kl", LOG_PROBS, False), ("forward_kl", SCORES, True),
     ("opd", SCORES, True), ("supervised", frozenset(), True), ("strong_to_weak", WHITE_BOX, True)],
)  # fmt: skip
def test_needs_against_what_a_teacher_gives(recipe, gives, fits):
    if fits:
        check(catalog.build(recipe), {"teacher": gives})
    else:
        with pytest.raises(NeedError, match=r"voice 'teacher'.*next"):
            check(catalog.build(recipe), {"teacher": gives})


def test_scores_of_everything_serve_where_the_top_is_needed():
    top = recipe_of(Match(kl_forward, on=Top(4)))
    check(top, {"teacher": LOG_PROBS})
    check(top, {"teacher": SCORES})
    with pytest.raises(NeedError):
        check(top, {"teacher": TEXT})


def test_uses_name_parts_and_no_words():
    assert uses(catalog.build("gkd")) == ["Ask", "Corpus", "Jensen", "Live", "Match", "Mixture"]
    assert "kl_forward" in uses(recipe_of(Match(kl_forward)))


@pytest.mark.parametrize("name", catalog.names())
def test_a_description_is_stable_across_processes(name):
    here = describe(catalog.build(name))
    assert " at 0x" not in here
    code = f"from tutelage.core import catalog, describe; print(describe.describe(catalog.build({name!r})))"
    if name in ("gkd", "strong_to_weak"):  # two stand for all: a process costs seconds
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == here
    assert digest(here) == digest(describe(catalog.build(name))) and len(digest(here)) == 16


def test_a_description_tells_settings_apart():
    assert describe(recipe_of(Match(kl_forward))) != describe(recipe_of(Match(kl_forward, on=Top(4))))
    assert describe({"a": (1,)}) == "{'a': (1,)}" and describe([1, kl_forward]) == "(1, kl_forward)"
