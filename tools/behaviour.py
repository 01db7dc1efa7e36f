"""The behaviour tier: run the claimed effect of each recipe, and keep what was found in `docs/measured/`.

python -m tools.behaviour                      every recipe; writes docs/measured/SLUG.json
python -m tools.behaviour opd                  the recipes that are named; writes nothing unless --write is given
python -m tools.behaviour --changed --share 4  recipes that changed since they were measured, and a quarter of the
                                               others, by the day; writes nothing unless --write is given
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from tutelage.core import catalog

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests" / "behaviour"
RECIPES = ROOT / "src" / "tutelage" / "recipes"
MEASURED = ROOT / "docs" / "measured"
ROUNDING = 0.002  # figures are kept to three digits: what moves by less is the same
LOOSE = ("versions", "rows", "figures")  # what another machine may change by a rounding


def recipe_hash(name: str) -> str:
    """A fingerprint of a recipe's source and of the parents it is built from."""
    text = (RECIPES / f"{name}.py").read_text(encoding="utf-8") + (RECIPES / "base.py").read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_of(name: str) -> Path:
    """Where a recipe's figures are kept: under its slug."""
    return MEASURED / f"{name.replace('_', '-')}.json"


def kept(name: str) -> dict[str, Any]:
    """What was measured of a recipe; empty if nothing was."""
    file = file_of(name)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def chosen(names: Sequence[str], changed: bool, share: int, day: int) -> list[str]:
    """The recipes to run: all, or those that changed and one in ``share`` of the rest, another one each day."""
    if not changed and not share:
        return list(names)
    new = [n for n in names if kept(n).get("recipe_hash") != recipe_hash(n)] if changed else []
    rest = [n for n in names if n not in new]
    return new + (rest[day % share :: share] if share else [])


@dataclass
class Findings:
    """A pytest plugin that collects what each test found: by recipe, the finding, whether it passed and its seconds."""

    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    passed: dict[str, bool] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the finding from the report of a test; a failing set-up counts as a failed test."""
        if report.when != "call" and report.passed:
            return
        name = Path(report.location[0]).stem.removeprefix("test_")
        self.passed[name] = self.passed.get(name, True) and report.passed
        self.seconds[name] = self.seconds.get(name, 0.0) + report.duration
        for key, value in report.user_properties:
            if key == "finding":
                self.found[name] = json.loads(str(value))


def numbers(value: Any) -> Iterator[float]:
    """Every number inside, in order."""
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from numbers(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)):
        yield float(value)


def moved(old: Mapping[str, Any], new: Mapping[str, Any]) -> float:
    """The largest change of a figure; infinite where the two are not figures of the same things."""
    if any(old.get(k) != new.get(k) for k in {*old, *new} if k not in LOOSE):
        return float("inf")
    before, after = list(numbers(old["figures"])), list(numbers(new["figures"]))
    if len(before) != len(after):
        return float("inf")
    return max((abs(a - b) for a, b in zip(before, after)), default=0.0)


def entry(name: str, finding: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of a recipe's file."""
    versions = {package: version(package) for package in ("tutelage", "torch", "transformers")}
    versions["python"] = sys.version.split()[0]
    return {**finding, "command": "make behaviour", "recipe_hash": recipe_hash(name), "versions": versions}


def settle(name: str, findings: Findings, write: bool) -> tuple[str, str, str]:
    """Compare a finding with the kept one and, if asked, keep it; returns claims, figures and whether all is well."""
    if name not in findings.found:
        return "no finding", "", "failed"
    new = entry(name, findings.found[name])
    claims = "\n".join(f"{sum(c['held'])}/{len(c['held'])} {c['text']}" for c in new["claims"])
    change = moved(kept(name), new)
    figures = "same as kept" if change <= ROUNDING else "new" if change == float("inf") else f"moved by {change:.3f}"
    if not findings.passed[name]:
        return claims, figures, "failed"
    if write and change > ROUNDING:
        MEASURED.mkdir(parents=True, exist_ok=True)
        file_of(name).write_text(json.dumps(new, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        figures += ", written"
    return claims, figures, "ok"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tier; the exit code is 1 if a claim failed or a recipe has no test."""
    parser = argparse.ArgumentParser("python -m tools.behaviour", description="The claimed effect of each recipe.")
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="only these; writes nothing without --write")
    parser.add_argument("--changed", action="store_true", help="only recipes that changed since they were measured")
    parser.add_argument("--share", type=int, default=0, metavar="N", help="also one in N of the others, by the day")
    parser.add_argument("--write", action="store_true", help="keep what was found, as a full run does")
    asked = parser.parse_args(arguments)
    if asked.share < 0:
        parser.error(f"--share {asked.share}: expected a whole number from 1, or 0 for none")
    if foreign := set(asked.recipes) - set(catalog.names()):
        parser.error(f"{', '.join(sorted(foreign))}: expected recipes, of {', '.join(catalog.names())}")
    names = asked.recipes or chosen(catalog.names(), asked.changed, asked.share, date.today().toordinal())
    untested = [n for n in names if not (TESTS / f"test_{n}.py").is_file()]
    files = [str(TESTS / f"test_{n}.py") for n in ("laboratory", *names) if n not in untested]
    findings, start = Findings(), time.perf_counter()
    code = int(pytest.main([*files, "-m", "behaviour", "-n", "0", f"--rootdir={ROOT}"], plugins=[findings]))
    write = asked.write or not (asked.recipes or asked.changed or asked.share)
    table = Table("recipe", "claims seen, of seeds", "figures", "", "seconds", title="Behaviour")
    failed = 0
    for name in names:
        shown = ("no test", "", "failed") if name in untested else settle(name, findings, write)
        failed += shown[2] == "failed"
        table.add_row(name, *shown, f"{findings.seconds.get(name, 0):.0f}")
    Console().print(table)
    print(f"{len(names)} recipes in {time.perf_counter() - start:.0f} s")
    print(f"{len(names) - failed} passed, {failed} failed")  # the line that a reader of logs looks for
    return 1 if code or untested else 0


if __name__ == "__main__":
    sys.exit(main())
