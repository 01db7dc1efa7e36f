"""Rollouts of the real student: our sampler, a vLLM server and vLLM in one process, with the hand-over of weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tools import vllm_env

from tutelage.core.errors import ServerError, StoreError
from tutelage.data.render import prompt_ids
from tutelage.models.causal import Causal
from tutelage.models.draw import Sampling
from tutelage.models.export import export
from tutelage.models.load import load
from tutelage.models.sample import sample

from .common import ROOT, Result, fresh, seconds
from .pair import pair, problems
from .sampling import endless

SIZES, TOKENS, REPEATS, START_SECONDS = (4, 16), 64, 2, 240
COLUMNS = ("arm", "rows", "tokens", "seconds", "tokens/s", "hand-over seconds", "from the trainer, nats")


def make(folder: str, rows: int) -> dict[str, Any]:
    """The student as a folder, and prompts."""
    _, student = pair("cpu")
    export(student, Path(folder) / "model", card={})
    return {"prompts": [prompt_ids(r, student.tokenizer) for r in problems(rows)]}


def move(student: Causal) -> None:
    """A step in which every weight moves a little."""
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.mul_(1.0001)


def arm(how: str, folder: str, url: str, prompts: list[list[int]], tokens: int, repeats: int) -> list[dict[str, Any]]:
    """An arm for each number of rows: tokens written in a call, and the median times of one and of a hand-over."""
    student = load(f"{folder}/model")
    endless(student)
    if how == "vLLM server":
        from tutelage.voices.remote import Served, Server

        engine: Any = Served(Server(url, "student"), Path(folder) / "weights")
        engine.connect(student)
        student.engine = engine
    elif how == "vLLM in this process":
        from tutelage.models.embedded import Embedded

        student.engine = Embedded(student, max_length=1024)
        student.engine.follow(student)
    out = []
    for rows in SIZES:
        some, settings, seeds = prompts[:rows], Sampling(tokens), list(range(rows))
        written = sum(len(s.ids) for s in sample(student, some, settings, seeds))
        taken = seconds(lambda s=(some, settings, seeds): sample(student, *s), "cpu", repeats=repeats, warm=0)
        out.append({"rows": rows, "tokens": written, "seconds": taken, "handed": None, "apart": None})
        if student.engine is not None:
            move(student)
            start = time.perf_counter()
            student.engine.follow(student)
            out[-1] |= {"handed": time.perf_counter() - start, "apart": student.engine.probe.apart}
    return out


@contextmanager
def serving(python: Path, folder: str) -> Iterator[str]:
    """A server of the folder's model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", f"{folder}/model", "--served-model-name",
        "student", "--dtype", "float32", "--max-model-len", "1024", "--host", "127.0.0.1", "--port", str(port),
        "--enforce-eager", "--block-size", "32",
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_SERVER_DEV_MODE": "1"}
    with (Path(folder) / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        _await(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    import httpx

    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise ServerError(f"server {url}", got="no answer", expected="a healthy one", remedy="See that vLLM starts here.")


def beside(python: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The arm in a process of the environment with vLLM."""
    code = "import json, sys; from benchmarks.rollouts import arm; print(json.dumps(arm(**json.loads(sys.argv[1]))))"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-c", code, json.dumps(settings)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(device: str, quick: bool) -> Result:
    """The table."""
    python = vllm_env.python_of(vllm_env.home())
    if not python.is_file():
        raise StoreError(
            "benchmarks.rollouts",
            got=f"no environment with vLLM at {vllm_env.home()}",
            expected="one beside us",
            remedy="Make it: python -m tools.vllm_env",
        )
    tokens, repeats = (4, 1) if quick else (TOKENS, REPEATS)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        made = fresh("benchmarks.rollouts:make", folder=folder, rows=max(SIZES))
        size: dict[str, Any] = {"folder": folder, "tokens": tokens, "repeats": repeats, "prompts": made["prompts"]}
        found = {"our sampler": fresh("benchmarks.rollouts:arm", how="our sampler", url="", **size)}
        with serving(python, folder) as url:
            found["vLLM server"] = fresh("benchmarks.rollouts:arm", how="vLLM server", url=url, **size)
        found["vLLM in this process"] = beside(python, {"how": "vLLM in this process", "url": "", **size})
    for how, some in found.items():
        for got in some:
            cells = (got["rows"], got["tokens"], got["seconds"], got["tokens"] / got["seconds"])
            rows.append((how, *cells, *(("-", "-") if got["handed"] is None else (got["handed"], got["apart"]))))
    return Result(
        "rollouts",
        f"{tokens} tokens after GSM8K prompts, float32, temperature 1, no stop token; median of {repeats}. The "
        "hand-over is once a round, probe included; the last column is the probe's mean difference.",
        {"student": "15 of 30 layers of SmolLM2-135M-Instruct, not refitted", "tokens": tokens, "repeats": repeats},
        COLUMNS,
        tuple(rows),
    )
