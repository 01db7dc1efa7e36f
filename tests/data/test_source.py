from collections import Counter
from dataclasses import replace

import pytest

from tutelage.core.errors import DataError, SettingError, UnknownName
from tutelage.core.schedule import Linear, Progress
from tutelage.data.source import Corpus, Mixture


@pytest.fixture
def data(kit, ws):
    ws.data["train"] = [kit.text(f"t{n}", "Q", "A") for n in range(10)]
    ws.data["other"] = [kit.text(f"o{n}", "Q", "A") for n in range(7)]
    return ws


def ids(source, ws, step, size, rank=0, world=1, stage="one", num_steps=100):
    return [r.id for r in source.draw(Progress(stage, step, num_steps), ws, size, rank, world)]


def test_each_epoch_holds_each_row_once_in_its_own_order(data):
    drawn = [i for step in range(10) for i in ids(Corpus(), data, step, 3)]
    epochs = [drawn[n : n + 10] for n in range(0, 30, 10)]
    assert all(sorted(e) == sorted(r.id for r in data.data["train"]) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3


def test_draws_are_a_function_of_the_step(data):
    forwards = [ids(Corpus(), data, step, 4) for step in range(6)]
    assert [ids(Corpus(), data, step, 4) for step in reversed(range(6))] == forwards[::-1]
    assert ids(Corpus(), data, 0, 10, stage="two") != ids(Corpus(), data, 0, 10)
    data.seed = 8
    assert [ids(Corpus(), data, step, 4) for step in range(6)] != forwards


@pytest.mark.parametrize("source", [Corpus(), Mixture(((Corpus(), 1), (Corpus("other"), 2)), by="row")])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_share_the_batch_of_one(data, source, world):
    for step in range(4):
        shared = [i for rank in range(world) for i in ids(source, data, step, 7, rank, world)]
        assert shared == ids(source, data, step, 7)


def test_groups_fill_one_slot(data):
    rows = [replace(r, group=f"g{n % 5}") for n, r in enumerate(data.data["train"])]
    data.data["train"] = rows
    for rank in range(2):
        drawn = Corpus().draw(Progress("one", 0, 9), data, 4, rank, 2)
        assert all(n == 2 for n in Counter(r.group for r in drawn).values()) and len(drawn) == 4


def test_all_trains_every_piece(data):
    (row,) = Corpus(trains="all").draw(Progress("one", 0, 9), data, 1)
    assert all(p.trains for p in row.pieces)


def test_shares_are_met_by_step_and_by_row(data):
    parts = ((Corpus(), 0.25), (Corpus("other"), 0.75))
    by_step = [ids(Mixture(parts), data, step, 4) for step in range(400)]
    assert all(len({i[0] for i in step}) == 1 for step in by_step)
    assert sum(step[0][0] == "t" for step in by_step) == pytest.approx(100, abs=35)
    by_row = [i for step in range(100) for i in ids(Mixture(parts, by="row"), data, step, 4)]
    assert sum(i[0] == "t" for i in by_row) == pytest.approx(100, abs=35)


def test_shares_follow_a_schedule(data):
    falling = Mixture(((Corpus(), Linear(1, 0)), (Corpus("other"), Linear(0, 1))), by="row")
    assert {i[0] for i in ids(falling, data, 0, 50)} == {"t"}
    assert {i[0] for i in ids(falling, data, 100, 50)} == {"o"}


def test_bad_settings(data):
    with pytest.raises(SettingError):
        Corpus(trains="some")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="share -1"):
        Mixture(((Corpus(), -1),))
    with pytest.raises(SettingError):
        Mixture(())
    with pytest.raises(SettingError, match="shares"):
        ids(Mixture(((Corpus(), 0.0),)), data, 0, 2)
    with pytest.raises(SettingError, match="fewer processes"):
        ids(Corpus(), data, 0, 1, 0, 2)
    with pytest.raises(UnknownName, match="train"):
        ids(Corpus("trian"), data, 0, 1)
    data.data["train"] = []
    with pytest.raises(DataError, match="no rows"):
        ids(Corpus(), data, 0, 1)
