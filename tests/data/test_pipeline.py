from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from tutelage.core.errors import SettingError
from tutelage.data.pipeline import run_steps


@dataclass(frozen=True)
class Count:
    """Marks each row with how many rows its call saw."""

    reads: str = "row"

    def __call__(self, records, ws):
        rows = list(records)
        for row in rows:
            yield replace(row, fields={**row.fields, self.reads: len(rows)})


@dataclass(frozen=True)
class Echo:
    log: list
    reads: ClassVar[str] = "row"

    def __call__(self, records, ws):
        for row in records:
            self.log.append(row.id)
            yield row


@pytest.fixture
def rows(kit):
    return [replace(kit.text(str(n), "Q", "A"), group=g) for n, g in enumerate(["a", "b", "a", ""])]


def test_each_step_gets_what_it_reads(rows, ws):
    out = list(run_steps((Count("group"), Count("whole")), rows, ws))
    assert [(r.id, r.fields["group"], r.fields["whole"]) for r in out] == [
        ("0", 2, 4),
        ("2", 2, 4),
        ("1", 1, 4),
        ("3", 1, 4),
    ]


def test_rows_stream(rows, ws):
    log = []
    stream = run_steps((Echo(log),), iter(rows), ws)
    next(stream)
    assert log == ["0"]


def test_no_steps_change_nothing(rows, ws):
    assert list(run_steps((), rows, ws)) == rows


def test_a_step_that_does_not_say_is_refused_at_once(rows, ws):
    with pytest.raises(SettingError, match="reads"):
        run_steps((lambda records, ws: records,), rows, ws)
    with pytest.raises(SettingError, match="column"):
        run_steps((Count("column"),), rows, ws)
