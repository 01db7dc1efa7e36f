"""Signals on a common scale, ranks with and without a memory, and rounds whose micro-batches are asked as one."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core.batch import Batch, Units
from tutelage.core.context import Context
from tutelage.core.errors import NeedError, SettingError
from tutelage.core.joined import Joined, couples, joined, readable
from tutelage.core.record import Record
from tutelage.core.schedule import Progress, memories
from tutelage.core.signal import Constant, Noted, Read
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match
from tutelage.signals.picks import Tagged, TopShare
from tutelage.signals.pools import RowMean
from tutelage.signals.scale import Either, Floor, MinMax, RecentRank, RowRank

setting = runpy.run_path(str(Path(__file__).parents[1] / "contracts" / "conftest.py"))["setting"]
X = Noted("x")


def over(values, rows, num_rows=None):
    """A context over noted values."""
    row = torch.tensor(rows)
    num = num_rows or max(rows, default=0) + 1
    units = {"tokens": Units(row, torch.zeros_like(row)), "rows": Units(torch.arange(num), torch.zeros(num, dtype=torch.long))}
    records = tuple(Record(f"r{i}", (), {"domain": "m" if i % 2 else "c"}) for i in range(num))
    return Context(Batch(records, units, {}, {"tokens.x": torch.tensor(values, dtype=torch.float64)}, torch.arange(num)), {}, {})


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=20))
def test_a_rank_in_its_row_by_counting(pairs):
    pairs = sorted(pairs, key=lambda p: p[1])
    values, rows = [float(v) for v, _ in pairs], [r for _, r in pairs]
    got = over(values, rows)(RowRank(X)).tolist()
    for u, (v, r) in enumerate(zip(values, rows, strict=True)):
        mine = [w for w, s in zip(values, rows, strict=True) if s == r]
        assert got[u] == pytest.approx(sum(w <= v for w in mine) / len(mine))


def test_a_rank_among_what_was_seen_moves_with_training_and_is_kept():
    rank = RecentRank(X, size=4)
    one = over([1.0, 2.0, 3.0], [0, 0, 0])
    assert one(rank).tolist() == [0.5] * 3
    assert over([9.0], [0])(rank).tolist() == [0.5], "a step asked twice enters once, and only when it is done"
    one(replace(MinMax(X)))
    one._memo.clear()
    one(rank)
    rank.memory.observe(Progress("t", 0, 3), {})
    assert over([0.0, 2.0, 9.0], [0, 0, 0])(rank).tolist() == pytest.approx([0, 2 / 3, 1])
    rank.memory.observe(Progress("t", 1, 3), {})
    assert rank.memory.values.tolist() == [3.0, 0.0, 2.0, 9.0], "first in, first out"
    saved = rank.memory.state_dict()
    other = RecentRank(X, size=4)
    other.memory.load_state_dict(saved)
    assert over([2.5], [0])(other).tolist() == [0.5] and list(memories({"weight": rank})) == ["weight.memory"]
    with pytest.raises(SettingError):
        RecentRank(X, size=0)


def test_either_and_floor_are_exact():
    ctx = over([-0.5, 0.25, 1.0], [0, 0, 1])
    assert ctx(Floor(X)).tolist() == [0, 0.25, 1]
    assert ctx(Either(Floor(X), Constant(0.5))).tolist() == pytest.approx([0.5, 0.625, 1.0])


def test_a_tag_is_one_a_row_and_spreads():
    ctx = over([1.0, 1.0, 1.0], [0, 1, 1])
    assert ctx(Tagged("domain", "m")).tolist() == [0, 1] and ctx(Tagged("other", "m")).tolist() == [0, 0]
    assert ctx(Tagged("domain", "m") * X).tolist() == [0, 1, 1]


def test_a_round_asked_as_one_is_the_round(setting):
    s = setting(num_units=12, num_rows=4)
    whole, rows = s.context(), s.batch.units["tokens"].row
    contexts = []
    for part in ((0, 1), (2, 3)):
        mine = torch.isin(rows, torch.tensor(part))
        units = s.batch.units["tokens"]
        small = {
            "tokens": Units(rows[mine] - part[0], units.time[mine], units.target[mine]),
            "rows": Units(torch.arange(2), torch.zeros(2, dtype=torch.long)),
        }
        notes = {"tokens.old": s.batch.notes["tokens.old"][mine], "rows.right": s.batch.notes["rows.right"][list(part)]}
        batch = Batch(s.batch.records[part[0] : part[1] + 1], small, {}, notes, torch.zeros(2, dtype=torch.long))
        ctx = setting(num_units=1).context()
        voices = {who: type(v)(v.slot, {"next": type(v.said["next"])(v.said["next"].hidden[mine], v.said["next"].head)}) for who, v in whole.voices.items()}
        contexts.append(Context(batch, voices, {}, frozenset({"student"}), ctx.workspace))
    round_ = Joined(contexts)
    assert round_.batch.group.tolist() == [0, 0, 2, 2] and round_.batch.num_rows == 4
    assert torch.equal(round_.batch.units["tokens"].row, rows)
    signals = {
        "rank": TopShare(0.4, by=Match(kl_forward)),
        "rows spread": MinMax(Match(kl_forward) * RowMean(Noted("old")) + Noted("right", "rows")),
        "constant": TopShare(0.5, by=Match(kl_forward) * 2.0 + 1.0),
    }
    for name, signal in signals.items():
        assert couples(signal), name
        with torch.no_grad():
            assert torch.allclose(round_(signal), whole(signal), atol=1e-12), name
        assert torch.equal(torch.cat(round_.split(round_(signal), "tokens")), round_(signal))
    assert readable(signals["rank"]) == [Match(kl_forward)] and round_.quiet is round_
    with pytest.raises(NeedError, match="a signal of its own"):
        round_.field(Read("student"))
    parts = joined([replace(c.batch, units={**c.batch.units, "fine": Units(torch.tensor([0]), torch.tensor([0]), None, {"tokens": torch.tensor([-1])})}) for c in contexts])
    assert parts.units["fine"].part_of["tokens"].tolist() == [-1, -1]
