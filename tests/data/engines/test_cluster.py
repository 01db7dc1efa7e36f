"""A real Ray cluster of two workers: the rows of one process, byte for byte, also when a worker is killed."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("ray", reason="Ray is not installed (extra ray)")

from tutelage.core.errors import DataError, MissingExtra, SettingError
from tutelage.core.recipe import Evaluate
from tutelage.data.engines import Local, Spread, cluster
from tutelage.data.engines.cluster import Cluster
from tutelage.data.engines.look import looked
from tutelage.data.store import RowStore, generate
from tutelage.evaluation.systems import measure_systems

pytestmark = pytest.mark.slow
WORKERS = Cluster(2, cpus=0.5)


@dataclass(frozen=True)
class Signed:
    """Writes down which process worked on which record, and takes its time."""

    folder: str
    seconds: float = 0.0
    bad: str = ""
    reads: ClassVar[str] = "row"

    def __call__(self, records, ws):
        for record in records:
            with (Path(self.folder) / f"{os.getpid()}").open("a") as file:
                file.write(f"{record.id}\n")
            time.sleep(self.seconds)
            if record.id == self.bad:
                raise DataError(record.id, got="a bad row", expected="a good one", remedy="Drop it.")
            yield record


@pytest.fixture(scope="module", autouse=True)
def ray():
    import ray

    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


def costs(ws):
    return {key: (a["calls"], a["tokens"]) for key, a in ws.ledger.state_dict().items()}


def test_generation_labelling_and_scoring_are_those_of_one_process(chains, prompts, workspace):
    """All chains in one, so that the workers are started once: groups of answers, labels, grades."""
    steps = (*chains["groups"], *chains["scoring"][1:], *chains["labelling"][1:])
    here, there = workspace("here"), workspace("there")
    one = list(Spread(steps, Local(), 4)(iter(prompts), here))
    two = list(Spread(steps, WORKERS, 4)(iter(prompts), there))
    assert one == two and len(one) == len(prompts)
    assert costs(here) == costs(there)
    assert {"gap"} <= set(one[0].pieces[-1].notes) and {"far", "right"} <= set(one[0].notes)


def test_a_killed_worker_is_retried_and_no_row_is_lost_or_doubled(chains, prompts, workspace, tmp_path):
    """Killed from outside, by signal 9, while it works; its batch is run again, in a worker that was not there before."""
    signs = tmp_path / "signs"
    signs.mkdir()
    steps = (*chains["labelling"], Signed(str(signs), 0.3))
    killed = []

    def kill():
        """In the midst of a batch of two, so that the batch is not done: its worker has signed for an odd number of rows."""
        while not killed:
            signed = {int(file.name): len(file.read_text().split()) for file in signs.iterdir()}
            midst = sorted(pid for pid, rows in signed.items() if rows % 2)
            if len(signed) == 2 and sum(signed.values()) > 4 and midst:
                os.kill(midst[0], signal.SIGKILL)
                killed.append(midst[0])
            time.sleep(0.02)

    hunter = threading.Thread(target=kill, daemon=True)
    hunter.start()
    ws, plain = workspace("there"), workspace("here")
    store = RowStore(tmp_path / "there", {"a": "b"})
    done = list(generate(steps, prompts, ws, store, 2, WORKERS))
    hunter.join(5)
    assert killed and done == list(range(1, 8)) and store.complete
    pids = [int(file.name) for file in signs.iterdir()]
    assert len(pids) >= 3, "a new worker took over"
    worked = [line for file in signs.iterdir() for line in file.read_text().split()]
    assert set(worked) == {p.id for p in prompts} and len(worked) > len(prompts), "its batch was run again"
    (tmp_path / "more").mkdir()
    same = RowStore(tmp_path / "here", {"a": "b"})
    list(generate((*chains["labelling"], Signed(str(tmp_path / "more"))), prompts, plain, same, 2))
    assert (tmp_path / "there" / "rows.jsonl").read_bytes() == (tmp_path / "here" / "rows.jsonl").read_bytes()
    assert costs(ws) == costs(plain), "what the killed one had not given back is charged once"


def test_an_error_of_a_worker_is_told_and_what_came_before_it_kept(prompts, workspace, tmp_path):
    steps = (Signed(str(tmp_path), bad="r9"),)
    store = RowStore(tmp_path / "rows", {"a": "b"})
    with pytest.raises(DataError, match="a bad row"):
        list(generate(steps, prompts, workspace(), store, 2, WORKERS))
    rows = [r.id for r in store.records()]
    assert rows == [p.id for p in prompts[: len(rows)]] and len(rows) <= 8


def test_systems_are_measured_the_same(chains, prompts, workspace, tmp_path):
    stage = Evaluate("judge", {"graded": chains["scoring"]}, {"mean": lambda rows: sum(r.notes["right"] for r in rows)})
    one = measure_systems(stage, prompts, workspace("here"), tmp_path / "a")
    two = measure_systems(stage, prompts, workspace("there"), tmp_path / "b", WORKERS)
    for result in (one["graded"], two["graded"]):
        for account in result["cost"].values():
            account.pop("seconds")
    assert one == two


def test_a_cache_is_written_the_same(new_cache, workspace):
    here, there = workspace("here"), workspace("there")
    (one, rows), (two, _) = new_cache("one", here), new_cache("two", there)
    assert list(looked(one, "teacher", rows, here))[-1] == list(looked(two, "teacher", rows, there, WORKERS))[-1] == len(rows)
    files = [sorted((f.name, f.read_bytes()) for f in cache.folder.iterdir() if f.is_file()) for cache in (one, two)]
    assert files[0] == files[1] and costs(here) == costs(there)


def test_what_cannot_be_is_refused(monkeypatch):
    with pytest.raises(SettingError, match="num_workers=0"):
        Cluster(0)

    def gone():
        raise cluster.missing_extra("steps on a Ray cluster", "ray", "ray")

    monkeypatch.setattr(cluster, "_ray", gone)
    with pytest.raises(MissingExtra, match=r"tutelage\[ray\]"):
        Cluster(2)
