"""Systems: chains of steps from prompts to answers, with what they cost, kept as they are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest

from tutelage.core.errors import SettingError
from tutelage.core.recipe import Evaluate
from tutelage.core.record import Record
from tutelage.core.workspace import Workspace
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.keep import Keep
from tutelage.evaluation.systems import measure_systems

ASK = Ask("student", max_tokens=5, temperature=1.0)


@pytest.fixture
def ws(pair, tmp_path):
    made = Workspace(tmp_path, seed=3)
    for slot, model in zip(("teacher", "student"), pair, strict=True):
        model.facts.update(weights_sha256=slot, tokenizer_sha256="t")
        made.models[slot] = model
    return made


@pytest.fixture
def prompts(records):
    return [Record(f"{r.id}-{n}", r.pieces) for n in range(6) for r in records if r.id != "bare"]


def test_answers_are_those_of_the_chain_and_references_those_of_the_data(ws, prompts, tmp_path):
    stage = Evaluate("ask", {"student": (ASK,)}, {"ids": lambda rows: [r.id for r in rows]})
    found = measure_systems(stage, prompts, ws, tmp_path / "data")["student"]
    assert found["num_prompts"] == found["num_rows"] == len(prompts) and found["ids"] == [r.id for r in prompts]
    assert found["text"]["num_graded"] == len(prompts) and found["text"]["length"]["max"] <= 5
    sampled = found["cost"]["student/sample"]
    assert sampled["calls"] == len(prompts) and sampled["tokens"] == sum(found["text"]["lengths"])
    assert found["cost"]["total"]["tokens"] == sampled["tokens"] and ws.ledger.get("student", "sample").tokens == sampled["tokens"]


def test_a_system_of_two_models_pays_for_what_it_drops(ws, prompts, tmp_path):
    """The cost of an answer that was thrown away is a cost."""
    both = {"alone": (ASK,), "cascade": (ASK, Keep(Some()), Ask("teacher", max_tokens=4))}
    found = measure_systems(Evaluate("two", both), prompts, ws, tmp_path / "data")
    cost = found["cascade"]["cost"]
    assert found["cascade"]["num_rows"] == cost["teacher/sample"]["calls"] < len(prompts) == cost["student/sample"]["calls"]
    assert cost["total"]["calls"] == sum(a["calls"] for name, a in cost.items() if name != "total")
    assert ws.ledger.get("student", "sample").calls == 2 * len(prompts)


@dataclass(frozen=True)
class Fails:
    """A step that fails at one row."""

    at: str
    reads: ClassVar[str] = "row"
    armed: ClassVar[bool] = True

    def __call__(self, records: Iterator[Record], ws: Workspace) -> Iterator[Record]:
        for record in records:
            if Fails.armed and record.id == self.at:
                raise ConnectionError("gone")
            yield record


def test_a_failure_loses_nothing_and_going_on_repeats_nothing(ws, prompts, tmp_path, monkeypatch):
    steps = (ASK, Fails(prompts[34].id))
    monkeypatch.setattr(Fails, "armed", False)
    whole = measure_systems(Evaluate("s", {"a": steps}), prompts, ws, tmp_path / "whole")
    monkeypatch.setattr(Fails, "armed", True)
    with pytest.raises(ConnectionError):
        measure_systems(Evaluate("s", {"a": steps}), prompts, ws, tmp_path / "data")
    monkeypatch.setattr(Fails, "armed", False)
    again = measure_systems(Evaluate("s", {"a": steps}), prompts, ws, tmp_path / "data")

    def timeless(found):
        return {**found["a"], "cost": {k: {**v, "seconds": 0} for k, v in found["a"]["cost"].items()}}

    assert timeless(again) == timeless(whole)
    rows = [(tmp_path / f / "s-a" / "rows.jsonl").read_bytes() for f in ("whole", "data")]
    assert rows[0] == rows[1]


def test_a_step_that_needs_all_rows_is_refused(ws, prompts, tmp_path):
    whole = type("All", (), {"reads": "whole", "__call__": lambda self, rows, ws: rows, "__repr__": lambda self: "All()"})()
    with pytest.raises(SettingError, match="whole data set"):
        measure_systems(Evaluate("s", {"a": (whole,)}), prompts, ws, tmp_path / "data")


def test_nothing_comes_out(ws, prompts, tmp_path):
    found = measure_systems(Evaluate("s", {"a": (ASK, Keep(Never()))}), prompts[:2], ws, tmp_path / "data")["a"]
    assert found["num_rows"] == 0 and found["text"] == {} and found["cost"]["student/sample"]["calls"] == 2


@dataclass(frozen=True)
class Never:
    """False."""

    def __call__(self, record: Record) -> bool:
        return False


@dataclass(frozen=True)
class Some:
    """True of about half of the answers."""

    def __call__(self, record: Record) -> bool:
        return sum(record.pieces[-1].ids) % 2 == 0
