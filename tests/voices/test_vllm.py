"""A real vLLM server: what it says of a text is what the model in this process says."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import torch

import tutelage
from tutelage.core.errors import ServerError
from tutelage.data.collate import Collate
from tutelage.models.draw import Sampling
from tutelage.models.export import export
from tutelage.models.load import cache_root, load
from tutelage.models.sample import sample
from tutelage.voices.remote import Remote, Server

pytestmark = pytest.mark.slow

RUN = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
ROWS = runpy.run_path(str(Path(__file__).parents[1] / "data" / "test_foreign.py"))["ROWS"]
TOP_RECIPE = runpy.run_path(str(Path(__file__).with_name("test_remote.py")))["TOP_RECIPE"]
data_folder, teacher_folder, new_run = RUN["data_folder"], RUN["teacher_folder"], RUN["new_run"]
START_SECONDS = 180


@pytest.fixture(scope="module")
def python():
    """The interpreter of the environment with vLLM."""
    home = Path(os.environ.get("TUTELAGE_VLLM") or cache_root() / "vllm-env")
    found = next((p for p in (home / "bin" / "python", home) if p.is_file()), None)
    if found is None:
        pytest.skip("no environment with vLLM: make it with python -m tools.vllm_env, or name one in TUTELAGE_VLLM")
    return found


@pytest.fixture(scope="module")
def folder(new_causal, tmp_path_factory):
    """A tiny teacher whose heads are as wide as vLLM wants them."""
    made = new_causal("teacher", seed=1, hidden_size=128, intermediate_size=128, num_hidden_layers=2)
    return export(made, tmp_path_factory.mktemp("vllm") / "teacher", card={"licence": "mit"})


@pytest.fixture(scope="module")
def url(python, folder, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "vllm.log"
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "tiny",
        "--dtype", "float32", "--max-model-len", "256", "--host", "127.0.0.1", "--port", str(port), "--max-logprobs", "32",
        "--enforce-eager", "--max-num-seqs", "8",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    try:
        while time.monotonic() < end and process.poll() is None:
            try:
                if httpx.get(f"{address}/health", timeout=2).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        else:
            pytest.skip(f"vLLM does not start here: {log.read_text()[-300:]}")
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def teacher(folder):
    return load(str(folder))


@pytest.fixture
def remote(url, teacher):
    return Remote("teacher", Server(url, "tiny"), teacher.tokenizer, top_k=20, watch_seconds=0.0)


def test_scores(remote, teacher):
    view = Collate(teacher.tokenizer, 200)(ROWS).views["main"]
    with torch.no_grad():
        want = teacher.predict(view, frozenset({"next"}))["next"].at(slice(None))
    got = remote.predict(view, frozenset({"next"}))["next"].at(slice(None))
    top = want.topk(20)
    assert float((got.gather(1, top.indices) - top.values).abs().max()) < 1e-4
    assert torch.equal(got.topk(8).indices, want.topk(8).indices) or float((got.topk(8).values - want.topk(8).values).abs().max()) < 1e-4
    assert remote.facts["server"].startswith("vllm") and remote.max_positions == 256


def test_text(remote, teacher):
    prompts = [teacher.tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("one two", "in the end")]
    greedy = Sampling(max_tokens=8, temperature=0.0)
    for a, b in zip(sample(teacher, prompts, greedy, [1, 2]), sample(remote, prompts, greedy, [1, 2]), strict=True):
        assert a.ids == b.ids and a.stop == b.stop and a.log_probs == pytest.approx(b.log_probs, abs=1e-4)
    warm = Sampling(max_tokens=8)
    assert sample(remote, prompts, warm, [1, 2]) == sample(remote, prompts, warm, [1, 2])


def test_more_than_it_gives(url, teacher):
    with pytest.raises(ServerError, match="greater than max allowed: 32"):
        Remote("teacher", Server(url, "tiny"), teacher.tokenizer, top_k=33)


def test_runs(url, folder, new_run, tmp_path):
    """The same losses against vLLM and against the model in this process."""
    file = tmp_path / "top.py"
    file.write_text(TOP_RECIPE)
    student = {"shrink": {"layers": 1, "refit": False, "num_records": 4, "source": "judge"}}
    settings = {"steps": 3, "batch_size": 4, "max_length": 96, "learning_rate": 3e-3}
    losses = []
    for name, source in (("far", {"url": url, "model": "tiny"}), ("near", str(folder))):
        models = {"judge": str(folder), "teacher": source, "student": student}
        run = tutelage.run(new_run(output=name, recipe=str(file), args={"k": 8}, models=models, train=settings))
        losses.append([json.loads(x)["kl"] for x in (run.folder / "metrics.jsonl").read_text().splitlines()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0][0] > 0.01
