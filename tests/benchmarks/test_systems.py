"""Every declared recipe ran on the real pair as it is now; declarations are ones that a run takes."""

from __future__ import annotations

import pytest
from tools import systems

from tutelage.core import catalog
from tutelage.core.errors import MissingExtra
from tutelage.running import assemble
from tutelage.running.api import resolve

SETTINGS = systems.read_settings()
DECLARED = sorted(SETTINGS["recipes"])


@pytest.mark.parametrize("name", DECLARED)
def test_its_figures_are_of_the_recipe_as_it_is(name):
    found = systems.kept()
    assert name in catalog.names(), f"tools/systems.toml names {name!r}, which is no recipe"
    assert name in found, f"{name!r} was not run: python -m tools.systems --only {name}"
    assert not systems.stale(name, found, SETTINGS), f"{name!r} changed since: python -m tools.systems --only {name}"
    # what a verifier's reward moves need not come nearer to anybody in a few steps
    rewarded = "verifier" in catalog.parameters(catalog.find(name))
    assert found[name]["finite"] and (rewarded or found[name]["fell"] != "nothing") and found[name]["seconds"] > 0


@pytest.mark.parametrize("name", catalog.names())
def test_its_run_file_is_one_that_a_run_takes(name, tmp_path):
    try:
        assemble.recipe_of(resolve(systems.prepared(name, SETTINGS, tmp_path)))
    except MissingExtra as missing:
        pytest.skip(str(missing))


def test_a_fingerprint_does_not_know_the_machine(tmp_path):
    """Putting a run into a folder leaves the declarations as they are."""
    before = systems.fingerprint("opd", SETTINGS)
    assert str(tmp_path) in systems.prepared("opd", SETTINGS, tmp_path).read_text()
    assert systems.fingerprint("opd", SETTINGS) == before


def test_a_table_stands_on_top_of_the_default():
    made = systems.merged({"a": {"b": 1, "c": {"d": 2}}, "e": 3}, {"a": {"c": "x"}, "f": 4})
    assert made == {"a": {"b": 1, "c": "x"}, "e": 3, "f": 4}


def test_a_setting_changes_the_fingerprint():
    before = systems.fingerprint("opd", SETTINGS)
    assert systems.fingerprint("opd", {**SETTINGS, "common": {"max_tokens": 13}}) != before
    assert systems.fingerprint("opd", {**SETTINGS, "common": {**SETTINGS["common"], "verifier": "x"}}) == before


@pytest.mark.parametrize(
    ("name", "losses", "divergences", "word"),
    [
        ("forward_kl", {"train": [2.0, 1.0]}, {"kl": [2.0, 3.0]}, "loss"),
        ("forward_kl", {"train": [1.0, 2.0]}, {"kl": [2.0, 3.0], "reverse_kl": [2.0, 1.0]}, "reverse kl on the same rows"),
        ("strong_to_weak", {"imitate": [2.0, 1.0], "correct": [1.0, 2.0]}, {"kl": [3.0, 2.0]}, "kl on the same rows"),
        ("g_opd_exopd", {"train": [2.0, 1.0]}, {"kl": [2.0, 3.0]}, "nothing"),
    ],
)
def test_what_fell_is_told(name, losses, divergences, word):
    assert systems.fell(name, losses, divergences) == word
