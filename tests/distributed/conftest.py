"""Several gloo processes on this machine, and one: the same jobs, trained by `worker.py`."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture(scope="session")
def worker():
    """The worker's functions, for a run of one process: this one."""
    spec = importlib.util.spec_from_file_location("distributed_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def launch():
    """Run a script of this folder in several processes; the exit code and what was said."""

    def run(num_processes, *arguments, script=WORKER):
        port = str(29500 + (os.getpid() * 7 + num_processes) % 4000)
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(num_processes), "--master_port", port]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
        done = subprocess.run([*command, str(script), *map(str, arguments)], capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def together(launch):
    """Train jobs in several processes: the log of each, by name."""

    def run(num_processes, folder, jobs):
        file = folder / f"jobs-{num_processes}-{len(list(folder.glob('jobs-*')))}.json"
        file.write_text(json.dumps({name: {**job, "folder": str(job["folder"])} for name, job in jobs.items()}))
        code, said = launch(num_processes, file)
        assert code == 0, said
        return json.loads(file.with_suffix(".out").read_text())

    return run
