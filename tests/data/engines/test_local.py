"""Threads give what one process gives: in order, no more ahead than asked, and errors where they belong."""

import importlib
import threading
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from tutelage.core.errors import DataError, SettingError
from tutelage.data.cached import States, Top
from tutelage.data.engines import Local, Spread
from tutelage.data.engines.look import looked
from tutelage.data.pipeline import run_steps
from tutelage.data.steps import pick
from tutelage.data.steps.ask import Ask
from tutelage.data.store import RowStore, generate, row_key


@dataclass(frozen=True)
class Counted:
    """Counts how many batches are worked on at once, and fails on a record if it is told to."""

    now: list
    most: list
    bad: str = ""
    reads: ClassVar[str] = "row"

    def __call__(self, records, ws):
        for record in records:
            with lock:
                self.now.append(record.id)
                self.most.append(len(self.now))
            waited.wait(0.02)
            with lock:
                self.now.remove(record.id)
            if record.id == self.bad:
                raise DataError(record.id, got="a bad row", expected="a good one", remedy="Drop it.")
            yield record


answer = importlib.import_module("tutelage.data.cached.answer")  # the package has a function of that name
lock, waited = threading.Lock(), threading.Event()


@pytest.mark.parametrize("chain", ["generation", "labelling", "scoring", "groups"])
def test_threads_give_the_same_rows_at_the_same_cost(chain, chains, prompts, workspace):
    out = []
    for workers in (1, 3):
        ws = workspace()
        rows = list(Spread(chains[chain], Local(workers), 4)(iter(prompts), ws))
        costs = {key: (a["calls"], a["tokens"]) for key, a in ws.ledger.state_dict().items()}
        out.append((rows, costs))
    assert out[0] == out[1] and len(out[0][0]) == len(prompts)


def test_a_chain_in_one_batch_is_the_chain_itself(chains, prompts, workspace):
    assert list(Spread(chains["labelling"], batch_size=99)(iter(prompts), workspace())) == list(
        run_steps(chains["labelling"], prompts, workspace())
    )


def test_no_more_is_drawn_than_is_worked_on(prompts, workspace):
    drawn = []
    batches = ((drawn.append(i), prompts[i : i + 1])[1] for i in range(len(prompts)))
    found = Local(3)((Counted([], most := []),), batches, workspace())
    assert next(found)[0].id == "r0" and len(drawn) <= 4
    assert [rows[0].id for rows in found] == [p.id for p in prompts[1:]]
    assert 2 <= max(most) <= 3


@pytest.mark.parametrize("workers", [1, 3])
def test_what_was_done_before_an_error_is_kept(workers, prompts, workspace, tmp_path):
    ws = workspace()
    steps = (Counted([], [], "r7"),)
    store = RowStore(tmp_path / "rows", {"a": "b"})
    with pytest.raises(DataError, match="a bad row"):
        list(generate(steps, prompts, ws, store, 2, Local(workers)))
    assert [r.id for r in store.records()] == [f"r{i}" for i in range(6)]
    for _ in generate((Counted([], []),), prompts, ws, RowStore(tmp_path / "rows", {"a": "b"}), 2, Local(workers)):
        pass
    assert [r.id for r in RowStore(tmp_path / "rows", {"a": "b"}).records()] == [p.id for p in prompts]


def test_where_it_runs_is_no_part_of_what_rows_depend_on(prompts, workspace):
    keys = [row_key((Spread((Ask("teacher"),), Local(n)),), prompts, workspace()) for n in (1, 4)]
    assert keys[0] == keys[1] and any("teacher" in name for name in keys[0])


@pytest.mark.parametrize("form", [Top, States], ids=["top", "states"])
def test_a_cache_is_the_same_however_it_was_filled(form, new_cache, workspace, monkeypatch):
    """As by asking row by row while training; and what is there is not asked again."""
    monkeypatch.setattr(answer, "MOST_TOKENS", 150)
    ws = workspace()
    size = ws.models["teacher"].head.num_categories
    made = Top(num_kept=8, num_categories=size) if form is Top else States(num_features=ws.models["teacher"].hidden_size, num_categories=size)
    caches = {}
    for workers in (1, 3):
        caches[workers], rows = new_cache(f"by {workers}", ws, made)
        assert list(looked(caches[workers], "teacher", rows, ws, Local(workers)))[-1] == len(rows)
    asked = ws.ledger.get("teacher", "predict").calls
    assert asked > 4 and list(looked(caches[1], "teacher", rows, ws)) == []
    assert ws.ledger.get("teacher", "predict").calls == asked
    plain, rows = new_cache("plain", ws, made)
    answer.store(plain, rows, lambda view: ws.models["teacher"].predict(view, frozenset({"next"}))["next"], torch.device("cpu"))
    files = [sorted((f.name, f.read_bytes()) for f in c.folder.iterdir() if f.is_file()) for c in (*caches.values(), plain)]
    assert files[0] == files[1] == files[2] and len(files[0]) > 1


def test_a_step_that_reads_everything_is_refused():
    with pytest.raises(SettingError, match="reads the whole data set"):
        Spread((pick.Top(0.5, "right"),))
    with pytest.raises(SettingError, match="num_workers"):
        Local(0)
