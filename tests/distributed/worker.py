"""One of several processes that train tiny pairs: `worker.py JOBS.json`; each job is trained in its own folder."""

import errno
import importlib.util
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from tutelage.core.catalog import build
from tutelage.core.record import Piece, Record
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate, split
from tutelage.data.live import Live
from tutelage.models.adapter import adapted
from tutelage.running import assemble
from tutelage.training import checkpoint as store
from tutelage.training.distributed import Processes
from tutelage.training.log import Metrics, Silent
from tutelage.training.loop import Loop
from tutelage.training.settings import TrainSettings
from tutelage.voices.says import Says

PROMPTS = ["one", "what is two and two", "tell me", "a", "the end of the day", "so", "which is it", "now then"]


def tests_module(name):
    spec = importlib.util.spec_from_file_location("kit", Path(__file__).parents[1] / name)
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    return kit


@dataclass(frozen=True)
class Without:
    """Drops some rows, so that a process may have none."""

    ids: tuple[str, ...]
    reads: ClassVar[str] = "row"

    def __call__(self, records, ws):
        return (r for r in records if r.id not in self.ids)


def fail_while_writing(number, how):
    """The second process is killed, or meets a full disk, while it writes its part of the n-th checkpoint."""
    left, real = [number], store.save_file

    def write(tensors, path):
        left[0] -= path.name.startswith("optimizer")
        if left[0] == 0:
            path.write_bytes(b"half")
            if how == "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            os.kill(os.getpid(), signal.SIGKILL)
        real(tensors, path)

    store.save_file = write


class Stopped(Exception):
    """A job ends early, as a kill would end it."""


class Told(Silent):
    def __init__(self, stop):
        self.stop, self.rows = stop, []

    def step(self, metrics):
        self.rows.append(dict(metrics))
        if metrics["step"] == self.stop:
            raise Stopped


def world_of(job, folder, processes):
    """A workspace with the tiny pair, split as the job says."""
    kit = tests_module("conftest.py")
    tokenizer = kit.make_tokenizer()
    ws = Workspace(folder, 11)
    ws.models["teacher"] = kit.make_causal("teacher", seed=1, tokenizer=tokenizer)
    ws.models["student"] = kit.make_causal("student", seed=2, tokenizer=tokenizer, num_hidden_layers=2)
    ws.data["train"] = [
        Record(f"r{i}", (Piece(p, "user"), Piece(p[::-1] * (1 + i % 3), "assistant", trains=True)))
        for i, p in enumerate(PROMPTS[: job.get("rows", len(PROMPTS))])
    ]
    if job.get("lora"):
        ws.models["student"] = adapted(ws.models["student"], rank=4, targets=("q_proj", "down_proj", "lm_head"), seed=3)
    if processes.world > 1 and job.get("split"):
        processes.shards.meet(processes.accelerator.device)
        for slot in job["split"]:
            processes.shards.split(slot, ws.models[slot])
    return ws


def train(job, folder):
    """The rows of the log of one job, from wherever its folder stands."""
    processes = Processes.start()
    ws = world_of(job, folder, processes)
    recipe = build(job["recipe"], job.get("args", {}))
    stage = recipe.stages[-1]
    if "drop" in job:
        stage = replace(stage, source=Live(Without(tuple(job["drop"])), prompts="train"))
    if "reuse" in job:
        stage = replace(stage, source=Live(*stage.source.steps, prompts="train", reuse=job["reuse"]))
    for how in ("die", "full"):
        if how in job and processes.rank == 1:
            fail_while_writing(job[how], how)
    folder.mkdir(parents=True, exist_ok=True)
    settings = TrainSettings(
        **{"steps": 4, "batch_size": 5, "micro_batch_size": 2, "learning_rate": 1e-2, "max_length": 64,
           "checkpoint_seconds": 1e-9, **job.get("settings", {})}
    )  # fmt: skip
    assemble.build_parts(stage, ws)
    told = Told(job.get("stop"))
    loop = Loop(
        stage, settings, ws, processes, Collate(ws.models["student"].tokenizer, 64, stage.views, pack=True), split,
        {slot: Says(slot) for slot in ws.models} | dict(stage.voices), folder / "c", Metrics(folder / "m.jsonl", processes), told,
    )  # fmt: skip
    with suppress(Stopped):
        loop.run()
    return told.rows


def main(jobs):
    out = {}
    for name, job in json.loads(Path(jobs).read_text()).items():
        out[name] = train(job, Path(job["folder"]))
    if Processes.start().main:
        Path(jobs).with_suffix(".out").write_text(json.dumps(out))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
