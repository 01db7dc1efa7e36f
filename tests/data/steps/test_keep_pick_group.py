from dataclasses import replace

import pytest

from tutelage.core.errors import DataError, SettingError
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.group import Group
from tutelage.data.steps.keep import AtLeast, Finished, Keep, Tokens
from tutelage.data.steps.pick import Best, Top


@pytest.fixture
def rows(kit):
    def row(n):
        more = {"ids": tuple(range(n)), "stop": "length" if n % 2 else "eos", "author": "student"}
        return replace(kit.text(f"r{n}", "Q", "A", **more), notes={"score": float(n % 4)}, fields={"topic": n % 3})

    return [row(n) for n in range(8)]


def names(steps, rows, ws):
    return [r.id for r in run_steps(steps, rows, ws)]


def test_keep_counts_what_it_drops(rows, ws):
    assert names((Keep(Finished()),), rows, ws) == ["r0", "r2", "r4", "r6"]
    kept, dropped = (ws.ledger.get("keep Finished()", deed) for deed in ("kept", "dropped"))
    assert (kept.calls, kept.tokens, dropped.calls, dropped.tokens) == (4, 12, 4, 16)


def test_rules(rows, ws):
    assert names((Keep(Tokens(2, 3)),), rows, ws) == ["r2", "r3"]
    assert names((Keep(AtLeast("score", 3)),), rows, ws) == ["r3", "r7"]
    assert names((Keep(lambda r: r.id == "r1"),), rows, ws) == ["r1"]
    with pytest.raises(DataError, match="a note 'right'"):
        names((Keep(AtLeast("right", 1)),), rows, ws)


def test_top_takes_the_largest_and_keeps_order(rows, ws):
    assert names((Top(0.25, "score"),), rows, ws) == ["r3", "r7"]
    assert names((Top(0.375, "score"),), rows, ws) == ["r2", "r3", "r7"]
    assert names((Top(0.01, "score"),), rows, ws) == ["r3"]
    assert names((Top(1.0, "score"),), rows, ws) == [r.id for r in rows]
    thirty = [replace(r, id=f"{r.id}.{k}") for k in range(4) for r in rows][:30]
    assert len(names((Top(0.1, "score"),), thirty, ws)) == 3


def test_best_of_each_group(rows, ws):
    assert names((Group("topic"), Best(1, "score")), rows, ws) == ["r3", "r7", "r2"]
    by = Group(lambda r: "even" if int(r.id[1]) % 2 == 0 else "")
    assert [r.group for r in run_steps((by,), rows, ws)] == ["even", ""] * 4


def test_bad_settings(rows, ws):
    for bad in (lambda: Top(0, "x"), lambda: Top(1.1, "x"), lambda: Best(0, "x")):
        with pytest.raises(SettingError):
            bad()
    with pytest.raises(DataError, match="a field 'tpoic'"):
        names((Group("tpoic"),), rows, ws)
