"""Every recipe's claimed effect was measured, and with the recipe as it is now."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from tutelage.core import catalog

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def behaviour():
    spec = importlib.util.spec_from_file_location("tools_behaviour", ROOT / "tools" / "behaviour.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", catalog.names())
def test_what_was_measured_is_of_the_recipe_as_it_is(behaviour, name):
    found = behaviour.kept(name)
    assert found, f"{behaviour.file_of(name)} is missing: write tests/behaviour/test_{name}.py and run `make behaviour`"
    now = behaviour.recipe_hash(name)
    assert found["recipe_hash"] == now, f"recipe {name!r} changed since it was measured: run `make behaviour`"
    assert found["columns"] and all(len(row) == len(found["columns"]) for row in found["rows"])
    assert len(found["seeds"]) >= 3 and found["claims"] and found["caption"] and found["command"]
    # one answer a seed, or one about the mean of all
    assert all(all(c["held"]) == c["expected"] and len(c["held"]) in (1, len(found["seeds"])) for c in found["claims"])


def test_nothing_is_kept_of_recipes_that_are_gone():
    kept = {p.stem for p in (ROOT / "docs" / "measured").glob("*.json")} - {"systems"}  # of all recipes: tools.systems
    assert kept <= {name.replace("_", "-") for name in catalog.names()}, "delete the files of recipes that are no more"


def test_the_fingerprint_sees_a_change(behaviour, tmp_path, monkeypatch):
    for name in ("opd.py", "base.py"):
        (tmp_path / name).write_text((behaviour.RECIPES / name).read_text())
    before = behaviour.recipe_hash("opd")
    monkeypatch.setattr(behaviour, "RECIPES", tmp_path)
    assert behaviour.recipe_hash("opd") == before
    for name in ("opd.py", "base.py"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text + "#\n")
        assert behaviour.recipe_hash("opd") != before
        (tmp_path / name).write_text(text)


def test_each_recipe_comes_round(behaviour, tmp_path, monkeypatch):
    """In N days every recipe runs once; one that changed runs every day."""
    names = catalog.names()
    monkeypatch.setattr(behaviour, "MEASURED", tmp_path)
    for name in names[1:]:
        behaviour.file_of(name).write_text(json.dumps({"recipe_hash": behaviour.recipe_hash(name)}))
    days = [behaviour.chosen(names, True, 3, day) for day in range(3)]
    assert all(names[0] in some for some in days)
    assert sorted(n for some in days for n in some if n != names[0]) == names[1:]
    assert behaviour.chosen(names, False, 0, 0) == names and behaviour.chosen(names, True, 0, 0) == names[:1]


def test_figures_within_rounding_are_the_same(behaviour):
    old = {"caption": "c", "versions": {"torch": "1"}, "rows": [["a", "0.100"]], "figures": {"a": [{"x": 0.1}]}}
    assert behaviour.moved(old, {**old, "versions": {"torch": "2"}, "figures": {"a": [{"x": 0.101}]}}) <= behaviour.ROUNDING
    assert behaviour.moved(old, {**old, "figures": {"a": [{"x": 0.2}]}}) == pytest.approx(0.1)
    assert behaviour.moved(old, {**old, "caption": "d"}) == behaviour.moved({}, old) == float("inf")
