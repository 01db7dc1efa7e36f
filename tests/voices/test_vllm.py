"""A real vLLM: what it says of a text is what the model in this process says, and it writes with a student's weights."""

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
from tutelage.voices.remote import Remote, Served, Server

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

RUN = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
ROWS = runpy.run_path(str(Path(__file__).parents[1] / "data" / "test_foreign.py"))["ROWS"]
TOP_RECIPE = runpy.run_path(str(Path(__file__).with_name("test_remote.py")))["TOP_RECIPE"]
EMBEDDED = Path(__file__).with_name("embedded.py")
KIT = runpy.run_path(str(EMBEDDED))
SOURCE = str(Path(tutelage.__file__).parents[1])
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
        "--enforce-eager", "--max-num-seqs", "8", "--block-size", "32",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_SERVER_DEV_MODE": "1"}
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


# -- a student's rollouts -------------------------------------------------------------------------------------------
@pytest.fixture
def student(url, folder, tmp_path):
    """The model that the server holds, with the server as its engine; afterwards the server holds it again."""
    made, first = load(str(folder)), load(str(folder))
    made.engine = Served(Server(url, "tiny"), tmp_path / "weights", tolerance_nats=1e-3)
    made.engine.connect(made)
    yield made
    made.engine.follow(first)


def test_it_writes_with_the_weights_of_now(student):
    prompts = [student.tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("one two", "in the end", "then there")]
    warm, greedy, found = Sampling(max_tokens=8), Sampling(max_tokens=8, temperature=0.0), []
    for number in range(3):
        said = sample(student, prompts, warm, [1, 2, 3])
        assert KIT["gaps"](student, prompts, said) < 1e-4 and student.engine.probe.apart < 1e-4
        found.append([s.ids for s in said])
        KIT["move"](student, seed=number)
    assert found[0] != found[1] != found[2]
    theirs, engine = sample(student, prompts, greedy, [1, 2, 3]), student.engine
    student.engine = None
    mine = sample(student, prompts, greedy, [1, 2, 3])
    student.engine = engine
    assert [(s.ids, s.stop) for s in theirs] == [(s.ids, s.stop) for s in mine]


def test_stops_lengths_and_endings(student):
    prompt = student.tokenizer("one two", add_special_tokens=False)["input_ids"]
    plain = sample(student, [prompt], Sampling(max_tokens=12), [5])[0]
    assert plain.stop in ("eos", "length") and len(plain.ids) <= 12
    half = student.tokenizer.decode(plain.ids[2:3])
    cut = sample(student, [prompt], Sampling(max_tokens=12, stop=(half,)), [5])[0]
    assert cut.stop == "stop" and cut.ids == plain.ids[: len(cut.ids)] and half in student.tokenizer.decode(cut.ids)
    first = plain.ids[0]
    student.inner.generation_config.eos_token_id = first
    ended = sample(student, [prompt], Sampling(max_tokens=12), [5])[0]
    assert ended.stop == "eos" and ended.ids == (first,)


def test_a_groups_prompt_is_read_once(student, url):
    def hits():
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:prefix_cache_hits_total"))

    prompt = student.tokenizer("one two three four five six seven eight nine ten, then there in the end", add_special_tokens=False)["input_ids"]
    before = hits()
    said = sample(student, [prompt] * 6, Sampling(max_tokens=4), list(range(6)))
    assert len({s.ids for s in said}) > 1 and hits() - before >= 3 * 32
    KIT["move"](student)
    said = sample(student, [prompt] * 6, Sampling(max_tokens=4), list(range(6)))
    assert KIT["gaps"](student, [prompt] * 6, said) < 1e-4, "what was read with the old weights is forgotten"


def test_on_policy_runs(student, url, folder, new_run, tmp_path):
    """The same losses with rollouts by vLLM and in this process, where what is written is certain."""
    losses = []
    for name, rollouts in (("far", {"url": url, "model": "tiny", "weights": str(tmp_path / "shared")}), ("near", None)):
        made = {"load": str(folder), **({"rollouts": rollouts} if rollouts else {})}
        other = {"shrink": {"source": "student", "layers": 1, "refit": False, "num_records": 4}}
        table = new_run(output=name, recipe="opd", args={"max_tokens": 6, "temperature": 0.0}, models={"teacher": other, "student": made})
        table["train"] = {"steps": 3, "batch_size": 4, "max_length": 96, "learning_rate": 3e-3}
        table["evaluate"] = {"num_records": 2, "num_samples": 0}
        losses.append([json.loads(x)["kl"] for x in (tutelage.run(table).folder / "metrics.jsonl").read_text().splitlines()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0][0] > 0.01


def test_in_one_process(python, folder):
    """vLLM in the process that trains: the same, and weights go over in memory."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": SOURCE, "HF_HUB_OFFLINE": "1"}
    check = subprocess.run([str(python), "-c", "import tutelage.models.load"], env=environment, capture_output=True)
    if check.returncode:
        pytest.skip("tutelage cannot be imported beside this vLLM: make its environment with python -m tools.vllm_env")
    done = subprocess.run([str(python), str(EMBEDDED), str(folder)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert max(found["gaps"]) < 1e-4 and max(found["probes"]) < 1e-4 and found["same"]
    assert found["greedy"] == [[True, True, [0.0]]] * 3 and "did not move with the weights" in found["deaf"]
