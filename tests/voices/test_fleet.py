"""Several servers of one teacher, as real processes: shared work, bounded, and none of them missed when it dies."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import torch

import tutelage
from tutelage.core.errors import ServerError, SettingError
from tutelage.data.collate import Collate
from tutelage.models.draw import Sampling
from tutelage.models.export import export
from tutelage.models.load import load
from tutelage.training import checkpoint as store
from tutelage.voices.remote import Remote, Server

RUN = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
ROWS = runpy.run_path(str(Path(__file__).parents[1] / "data" / "test_foreign.py"))["ROWS"]
data_folder, teacher_folder, new_run = RUN["data_folder"], RUN["teacher_folder"], RUN["new_run"]
NEXT = frozenset({"next"})


class Serving:
    """A server process that can be killed, and started again at its address."""

    def __init__(self, folder, port=0):
        self.folder = folder
        self.start(port)

    def start(self, port=0):
        script, environment = Path(__file__).with_name("loopback.py"), {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(script), str(self.folder), str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def ready(self):
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"
        self.control()
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def again(self):
        self.start(urlsplit(self.url).port)
        return self.ready()

    def control(self, **faults):
        httpx.post(f"{self.url}/control", json=faults).raise_for_status()

    def count(self):
        return httpx.get(f"{self.url}/count").json()["count"]


@pytest.fixture(scope="module")
def serving(teacher_folder):
    made = [Serving(teacher_folder) for _ in range(2)]
    yield [one.ready() for one in made]
    for one in made:
        one.kill()


@pytest.fixture
def servers(serving):
    for one in serving:
        if one.process.poll() is not None:
            one.again()
        one.control()
    return serving


@pytest.fixture(scope="module")
def teacher(teacher_folder):
    return load(str(teacher_folder))


@pytest.fixture
def far(servers, teacher):
    def make(**how):
        settings = {"timeout_seconds": 5.0, "retry_seconds": 20.0, "concurrency": 2, **how}
        where = Server(servers[0].url, "tiny", also=tuple(s.url for s in servers[1:]), **settings)
        return Remote("teacher", where, teacher.tokenizer, top_k=6)

    return make


def scores(remote, view):
    said = remote.predict(view, NEXT)["next"]
    return said.ids, said.log_probs


@pytest.fixture
def view(teacher):
    return Collate(teacher.tokenizer, 128)(ROWS).views["main"]


def wait_for(what, seconds=15.0):
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    assert what()


# -- one line to several ----------------------------------------------------------------------------------------------
def test_the_work_is_shared_and_the_answers_are_those_of_one(far, servers, teacher, view):
    alone = Remote("teacher", Server(servers[0].url, "tiny"), teacher.tokenizer, top_k=6)
    remote = far()
    before = [s.count() for s in servers]
    for _ in range(4):
        for ours, theirs in zip(scores(remote, view), scores(alone, view), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    settings = Sampling(max_tokens=5, temperature=1.0)
    assert [s.ids for s in remote.write([[5, 6], [7]], settings, [1, 2])] == [s.ids for s in alone.write([[5, 6], [7]], settings, [1, 2])]
    done = [s["answered"] for s in remote.line.states()]
    assert sum(done) == 4 * len(ROWS) + 2 and abs(done[0] - done[1]) <= 2, "each has its half"
    assert servers[1].count() - before[1] == done[1]


def test_the_least_busy_is_asked_and_none_has_more_than_it_may(far):
    """A slow server gets less; requests wait rather than pile up; what is asked is in flight nowhere else."""
    fleet, lock = far().line, threading.Lock()
    flying, most, done = [0, 0], [0, 0], [0, 0]

    def answering(number, seconds):
        def once(path, body=None):
            with lock:
                flying[number] += 1
                most[number] = max(most[number], flying[number])
            time.sleep(seconds)
            with lock:
                flying[number] -= 1
                done[number] += 1
            return body

        return once

    for number, seconds in enumerate((0.01, 0.06)):
        fleet.endpoints[number].line.once = answering(number, seconds)
    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(lambda i: fleet.ask("/x", i), range(60)))
    assert said == list(range(60)) and most == [2, 2] and sum(done) == 60
    assert done[0] > 2.5 * done[1]


# -- servers that fail ------------------------------------------------------------------------------------------------
def test_one_that_dies_is_left_out_and_comes_back(far, servers, view):
    remote = far()
    want = scores(remote, view)
    killer = threading.Timer(0.15, servers[1].kill)
    killer.start()
    for _ in range(8):
        for ours, theirs in zip(scores(remote, view), want, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        time.sleep(0.03)
    killer.join()
    scores(remote, view)
    states = remote.line.states()
    assert not states[0]["left_out"] and "no connection" in states[1]["left_out"]
    remote.watch_seconds = 0.0  # the look at who is who does not mind that one is away
    scores(remote, view)
    servers[1].again()
    before = servers[1].count()
    wait_for(lambda: (scores(remote, view), not remote.line.states()[1]["left_out"])[1])
    scores(remote, view)
    assert servers[1].count() > before


def test_one_that_comes_back_as_another_model_stays_out(far, servers, view):
    remote = far()
    servers[1].control(fail=503, times=1)
    scores(remote, view)
    servers[1].control(noise=3.0)
    wait_for(lambda: (scores(remote, view), "moved by" in remote.line.states()[1]["left_out"])[1])
    servers[1].control()
    wait_for(lambda: (scores(remote, view), not remote.line.states()[1]["left_out"])[1])


def test_a_hanging_one_costs_one_time_limit(far, servers, view):
    remote = far(timeout_seconds=0.6)
    servers[1].control(slow=3.0)
    start = time.monotonic()
    scores(remote, view)
    assert "in time" in remote.line.states()[1]["left_out"]
    scores(remote, view)
    assert time.monotonic() - start < 4.0


def test_all_dead_is_told_with_every_address(far, servers, view):
    remote = far(retry_seconds=0.6)
    for one in servers:
        one.kill()
    with pytest.raises(ServerError, match="none of 2 that answers for 0.6 s") as caught:
        scores(remote, view)
    assert all(one.url in str(caught.value) for one in servers) and "run the same command again" in caught.value.remedy


def test_all_of_them_hold_one_model(far, servers):
    servers[1].control(noise=3.0)
    with pytest.raises(ServerError, match="moved by") as caught:
        far()
    assert servers[1].url in caught.value.where
    servers[1].control(name="tiny2")
    with pytest.raises(ServerError, match="tiny2"):
        far()


def test_one_that_is_away_at_the_start_joins_later(far, servers, view):
    servers[0].kill()
    remote = far()
    assert scores(remote, view)[0].shape[0] and remote.line.states()[0]["left_out"]
    servers[0].again()
    wait_for(lambda: (scores(remote, view), not remote.line.states()[0]["left_out"])[1])


def test_an_address_stands_once():
    with pytest.raises(SettingError, match="also"):
        Server("http://a:1", "m", also=("http://a:1/",))
    with pytest.raises(SettingError, match="url"):
        Server("http://a:1", "m", also=("a:2",))


# -- whole runs -------------------------------------------------------------------------------------------------------
def log(folder):
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_outlives_its_servers(servers, new_run, teacher_folder, new_causal, tmp_path, monkeypatch):
    """One is killed while the run goes on, which changes nothing; then all are, and the same command goes on later."""
    student = export(new_causal("student", seed=2), tmp_path / "student", card={"licence": "mit"})
    (tmp_path / "top.py").write_text(runpy.run_path(str(Path(__file__).with_name("test_remote.py")))["TOP_RECIPE"])
    far = {"url": servers[0].url, "also": [servers[1].url], "model": "tiny", "top_k": 6, "retry_seconds": 0.6, "timeout_seconds": 5.0}
    train = {"steps": 5, "batch_size": 4, "max_length": 96, "learning_rate": 3e-3}

    def table(output, teacher):
        models = {"teacher": teacher, "student": str(student)}
        return new_run(output, recipe=str(tmp_path / "top.py"), args={}, models=models, train=train, name="far")

    whole = tutelage.run(table("whole", str(teacher_folder))).folder
    from tutelage.training.loop import Loop

    step = Loop._step

    def failing(self, progress):
        if progress.step in (1, 2):
            servers[1 if progress.step == 1 else 0].kill()
        return step(self, progress)

    monkeypatch.setattr(Loop, "_step", failing)
    with pytest.raises(ServerError, match="none of 2"):
        tutelage.run(table("parts", far))
    monkeypatch.undo()
    assert store.latest(tmp_path / "parts" / "far" / "checkpoints" / "train").step == 2, "saved where it stopped"
    servers[1].again()
    done = tutelage.run(table("parts", far)).folder
    assert [r["step"] for r in log(done)] == [1, 2, 3, 4, 5]
    assert [r["loss"] for r in log(done)] == pytest.approx([r["loss"] for r in log(whole)], rel=1e-4)
