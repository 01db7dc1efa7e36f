"""The loop: a run that was stopped anywhere ends with the same weights, bit for bit; two processes train as one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("worker.py")


def work(folder, *arguments, world=1, kill_after=None, check=True):
    command = [sys.executable, str(WORKER), str(folder), *arguments]
    if world > 1:
        run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(world), "--master_port", str(29500 + os.getpid() % 2000)]
        command = [*run, str(WORKER), str(folder), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random", "ACCELERATE_USE_CPU": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if kill_after and line.strip() == f"step {kill_after}":
            process.send_signal(signal.SIGKILL)
    code = process.wait()
    assert not check or kill_after or code == 0, "".join(lines)
    return lines


def weights(folder):
    return {k: torch.tensor(v) for k, v in json.loads((folder / "weights.json").read_text()).items()}


def metrics(folder):
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("time", "tokens_per_second")} for r in rows]


@pytest.mark.parametrize("source", ["mixture"])
def test_kill_9_and_go_on_is_bit_for_bit_the_same(tmp_path, source):
    work(tmp_path / "whole", source)
    for after in (2, 5):
        work(tmp_path / "killed", source, kill_after=after)
    assert not (tmp_path / "killed" / "weights.json").exists()
    work(tmp_path / "killed", source)
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    a, b = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_ctrl_c_saves_and_goes_on(tmp_path):
    work(tmp_path / "whole", "live")
    said = "".join(work(tmp_path / "stopped", "live", "interrupt=3"))
    assert "interrupted" in said and "Traceback" not in said
    work(tmp_path / "stopped", "live")
    a, b = weights(tmp_path / "stopped"), weights(tmp_path / "whole")
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("source", ["live"])
def test_two_processes_train_as_one(tmp_path, source):
    work(tmp_path / "one", source, "dropout=0")
    work(tmp_path / "two", source, "dropout=0", world=2)
    a, b = weights(tmp_path / "two"), weights(tmp_path / "one")
    scale = max(float(x.abs().max()) for x in b.values())
    assert max(float((a[k] - b[k]).abs().max()) for k in b) < 1e-5 * scale
    losses = [[r["loss"] for r in metrics(tmp_path / n)] for n in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_two_processes_go_on_after_a_kill(tmp_path):
    work(tmp_path / "whole", "live", world=2)
    work(tmp_path / "killed", "live", world=2, kill_after=4)
    work(tmp_path / "killed", "live", world=2)
    a, b = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(a[k], b[k]) for k in b)
