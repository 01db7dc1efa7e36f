"""A process of runs: `worker.py` reads jobs from its input and runs each in a fork; `worker.py RUN.json` runs one.

A job may ask to be killed (signal 9, from inside, so that the place is exact): after a step, when a stage starts, or at
the n-th time that a file is put in its place. Or it may meet a full disk at the n-th call of a function.
"""

import errno
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import accelerate  # noqa: F401  (imported before the forks, as the models and the report are)
import plotly.graph_objects  # noqa: F401
import torch
from transformers.models.llama import modeling_llama  # noqa: F401

import tutelage
from tutelage.core.errors import TutelageError
from tutelage.running import runner
from tutelage.training.log import Silent

# Batches of 5 prompts, so that writing has a middle to be killed in.
runner.GENERATE_BATCH = 5


class Told(Silent):
    """Prints what happens, and dies where it is told to."""

    def __init__(self, kill):
        self.kill = kill

    def stage(self, name, num_steps, done):
        self._now(f"stage {name}")

    def step(self, metrics):
        self._now(f"{metrics['stage']} {metrics['step']}")

    def _now(self, event):
        if event == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)


def die_at_rename(number):
    """Kill this process just before it puts its n-th file or folder in place."""
    left, rename = [number], os.replace

    def replace(*arguments, **settings):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(*arguments, **settings)

    os.replace = replace


def full_disk(where, number):
    """The disk refuses the n-th call of a function named by its module and name."""
    home, name = where.rsplit(".", 1)
    module, left = importlib.import_module(home), [number]
    real = getattr(module, name)

    def refuse(*arguments, **settings):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **settings)

    setattr(module, name, refuse)


def one(job):
    kill = job.get("kill", "")
    if "full" in job:
        full_disk(*job["full"])
    if kill.startswith("rename "):
        die_at_rename(int(kill.split()[1]))
    tutelage.run(job["run"], listener=Told(kill))


def forked(job):
    """The exit of a fork that ran the job: its signal or code, and what it said."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            code = 0
            try:
                one(job)
            except TutelageError as error:
                print(error, flush=True)
                code = 2
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return {"code": code, "said": said.read()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        one({"run": json.loads(Path(sys.argv[1]).read_text())})
    else:
        for line in sys.stdin:
            print(json.dumps(forked(json.loads(line))), flush=True)
