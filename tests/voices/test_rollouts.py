"""A student whose rollouts a server writes: always with the weights that it has now, and every fault told."""

from __future__ import annotations

import copy
import json
import pickle
import runpy
import socket
import threading
from pathlib import Path

import pytest
import torch

import tutelage
from tutelage.core.errors import ModelError, NeedError, ServerError, SettingError, StoreError
from tutelage.models.adapter import adapted
from tutelage.models.draw import Sampling
from tutelage.models.embedded import Embedded
from tutelage.models.engine import fingerprint, own_log_probs, write_weights
from tutelage.models.load import load
from tutelage.models.sample import sample
from tutelage.voices.remote import Served, Server

HERE = Path(__file__)
RUN = runpy.run_path(str(HERE.parents[1] / "running" / "conftest.py"))
Loopback = runpy.run_path(str(HERE.with_name("test_remote.py")))["Loopback"]
KIT = runpy.run_path(str(HERE.with_name("embedded.py")))
move, gaps = KIT["move"], KIT["gaps"]
data_folder, teacher_folder, new_run = RUN["data_folder"], RUN["teacher_folder"], RUN["new_run"]
WARM = Sampling(max_tokens=7)


@pytest.fixture(scope="module")
def serving(teacher_folder):
    made = Loopback(teacher_folder)
    yield made
    made.process.kill()
    made.process.wait()


@pytest.fixture
def server(serving):
    serving.control()
    return serving


@pytest.fixture
def student(teacher_folder):
    return load(str(teacher_folder))


@pytest.fixture
def prompts(student):
    return [student.tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("one two", "three", "in the end")]


@pytest.fixture
def engine(server, student, tmp_path):
    def make(**how):
        where = Server(how.pop("url", server.url), how.pop("model", "tiny"), timeout_seconds=5.0, retry_seconds=how.pop("retry", 3.0))
        return Served(where, how.pop("folder", tmp_path / "weights"), tolerance_nats=how.pop("tolerance", 1e-3), **how)

    return make


def four_parts(error):
    return error.where and error.got and error.expected and error.remedy


# -- the weights that it has now ------------------------------------------------------------------------------------
def test_what_it_writes_is_the_students_of_now(engine, student, prompts, tmp_path, server):
    student.engine = engine()
    student.engine.connect(student)
    found = []
    for number in range(3):
        said = sample(student, prompts, WARM, [1, 2, 3])
        assert gaps(student, prompts, said) < 5e-5 and all(s.drawn == s.log_probs for s in said)
        assert said == sample(student, prompts, WARM, [1, 2, 3])
        assert [f.name for f in (tmp_path / "weights").glob("weights-*")] == [f"weights-{fingerprint(student.model)}"]
        found.append(said)
        move(student, seed=number)
    assert found[0] != found[1] != found[2]
    assert server.asked()["resets"] == 4, "a look and three hand-overs: what was read with old weights is forgotten"
    greedy = Sampling(max_tokens=7, temperature=0.0)
    theirs, student.engine = sample(student, prompts, greedy, [1, 2, 3]), None
    assert [(s.ids, s.stop) for s in theirs] == [(s.ids, s.stop) for s in sample(student, prompts, greedy, [1, 2, 3])]


def test_a_low_rank_adapter_is_added_to_what_goes_over(engine, student, prompts):
    pytest.importorskip("peft")
    student = adapted(student, rank=2)
    student.engine = engine()
    student.engine.connect(student)
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))) if "lora_B" in name else None
    assert gaps(student, prompts, sample(student, prompts, WARM, [1, 2, 3])) < 5e-5


def test_every_setting_of_sampling_goes_over(engine, student, prompts, server):
    student.engine = engine()
    student.engine.connect(student)
    (cool,) = sample(student, prompts[:1], Sampling(5, 0.7, 3, 0.9, ("xyz",)), [2**40 + 7])
    asked = server.asked()["seen"][-1]
    want = {"max_tokens": 5, "temperature": 0.7, "top_k": 3, "top_p": 0.9, "stop": ["xyz"], "seed": 7, "prompt": prompts[0]}
    assert want.items() <= asked.items() and asked["stop_token_ids"] == list(student.stop_ids) and not asked["ignore_eos"]
    assert asked["repetition_penalty"] == 1.0 and asked["min_p"] == 0.0, "a server has defaults of its own"
    assert all(x != x for x in cool.drawn) and all(x == x for x in cool.log_probs)


def test_a_copy_writes_in_its_own_process(engine, student, prompts):
    student.engine = engine()
    student.engine.connect(student)
    assert copy.deepcopy(student).engine is None and pickle.loads(pickle.dumps(student.engine)) is None


def test_several_processes_hand_over_once(engine, student, prompts, server):
    one, two = engine(), engine()
    one.connect(student)
    two.connect(student)
    assert server.asked()["resets"] == 3, "two looks and one hand-over"
    move(student)
    threads = [threading.Thread(target=each.follow, args=(student,)) for each in (one, two)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert server.asked()["resets"] == 4 and one.probe.apart < 1e-4 and two.probe.apart < 1e-4


def test_a_server_that_was_started_anew_is_given_them_again(engine, student, teacher_folder, server):
    move(student)
    engine().connect(student)
    server.control()
    fresh = {"method": "reload_weights", "kwargs": {"weights_path": str(teacher_folder)}}
    again = engine()
    again.line.ask("/collective_rpc", fresh)
    again.connect(student)
    assert again.probe.apart < 1e-4


def test_a_fingerprint_is_of_every_bit(student):
    before = fingerprint(student.model)
    assert before == fingerprint(copy.deepcopy(student.model))
    weight = student.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        weight[3, 4] = torch.nextafter(weight[3, 4], torch.tensor(9.0))
    assert fingerprint(student.model) != before
    with torch.no_grad():
        weight[3, 4] = torch.nextafter(weight[3, 4], torch.tensor(-9.0))
    assert fingerprint(student.model) == before


def test_a_tied_head_goes_over_under_its_own_name(student, tmp_path):
    """A server that packs the head for itself would keep the old one, and write with half of the old weights."""
    from safetensors.torch import load_file

    assert student.config.tie_word_embeddings
    write_weights(student, tmp_path, torch.float32)
    found = {k: v for file in tmp_path.glob("*.safetensors") for k, v in load_file(file).items()}
    assert torch.equal(found["lm_head.weight"], student.head.weight) and torch.equal(found["model.embed_tokens.weight"], student.head.weight)
    assert set(found) == set(student.inner.state_dict())


# -- faults ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", ["deaf", "half"])
@pytest.mark.parametrize("size", [0.05, 1e-6], ids=["a large step", "a tiny step"])
def test_a_server_that_keeps_old_weights_is_refused(engine, student, prompts, server, fault, size):
    student.engine = engine(tolerance=0.1)
    student.engine.connect(student)
    move(student, size)
    server.control(**{fault: True})
    if fault == "half" and size < 1e-3:  # part of a step of 1e-6 is within rounding: no look at its words tells it
        return
    with pytest.raises(ServerError, match="fixed text") as caught:
        sample(student, prompts, WARM, [1, 2, 3])
    assert four_parts(caught.value)
    server.control()
    assert gaps(student, prompts, sample(student, prompts, WARM, [1, 2, 3])) < 5e-5, "mended, it goes on"


@pytest.mark.parametrize(
    ("faults", "error", "says"),
    [
        ({"dev": False}, ServerError, "VLLM_SERVER_DEV_MODE=1"),
        ({"shift": 1}, ModelError, "tokenizer"),
        ({"name": "other"}, ServerError, "'tiny'"),
        ({"key": "k"}, ServerError, "api_key_env"),
    ],
    ids=["not in development mode", "another tokenizer", "another name", "no key"],
)
def test_what_cannot_work_is_refused_at_the_start(engine, student, server, faults, error, says):
    server.control(**faults)
    with pytest.raises(error) as caught:
        engine().connect(student)
    assert four_parts(caught.value) and says in str(caught.value)


def test_a_folder_that_the_server_does_not_see(engine, student):
    with pytest.raises(ServerError, match="no weights in") as caught:
        engine(there="/elsewhere").connect(student)
    assert four_parts(caught.value)


def test_a_folder_that_cannot_be_written(engine, student, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="rollouts.weights"):
        engine(folder=tmp_path / "file" / "below").connect(student)


def test_a_server_that_is_away_is_waited_for_and_its_command_is_said(engine, student, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = []
    with pytest.raises(ServerError, match="no connection"):
        engine(url=f"http://127.0.0.1:{port}", retry=0.3, say=told.append).connect(student)
    (text,) = told
    start = tmp_path / "weights" / "start"
    assert f"VLLM_SERVER_DEV_MODE=1 vllm serve {start} --served-model-name tiny --port {port}" in text
    assert own_log_probs(load(str(start)), [3, 4, 5]) == own_log_probs(student, [3, 4, 5])


def test_an_answer_without_ids_or_with_foreign_ones(engine, student, prompts, server):
    student.engine = engine()
    student.engine.connect(student)
    size, student.size = student.size, 4
    with pytest.raises(ServerError, match="padding has learned nothing"):
        sample(student, prompts, WARM, [1, 2, 3])
    student.size = size
    server.control(ids=False)
    with pytest.raises(ServerError, match="without its token ids"):
        sample(student, prompts, WARM, [1, 2, 3])


def test_without_vllm_the_error_says_where_it_comes_from(student):
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"tools\.vllm_env") as caught:
            Embedded(student)
        assert four_parts(caught.value)


# -- runs -----------------------------------------------------------------------------------------------------------
def settings(new_run, server, teacher_folder, name, **changes):
    rollouts = changes.pop("rollouts", {"url": server.url, "model": "tiny", "timeout_seconds": 5.0, "retry_seconds": 1.0})
    student = {"load": str(teacher_folder), "rollouts": rollouts}
    made = new_run(output=name, recipe="opd", args={"max_tokens": 5, "temperature": changes.pop("temperature", 1.0)})
    made["models"] = {"teacher": str(teacher_folder), "student": student if rollouts else str(teacher_folder)}
    made["models"] |= changes.pop("models", {})
    made["train"] = {"steps": 4, "batch_size": 2, "max_length": 96, "learning_rate": 3e-3, "checkpoint_seconds": 1e9, "weight_decay": 0.5}
    made["train"] |= changes.pop("train", {})
    made["evaluate"] = {"num_records": 2, "num_samples": 0}
    return made | changes


def log(run):
    return [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def other_teacher(new_causal, tmp_path):
    from tutelage.models.export import export

    return {"teacher": str(export(new_causal("teacher", seed=2), tmp_path / "other", card={}))}


def test_a_run_is_the_same_as_in_this_process(new_run, server, teacher_folder, other_teacher):
    made = [
        tutelage.run(settings(new_run, server, teacher_folder, name, temperature=0.0, models=other_teacher, **more)).folder
        for name, more in (("far", {}), ("near", {"rollouts": None}))
    ]
    far, near = (log(run) for run in made)
    assert [row["kl"] for row in far] == pytest.approx([row["kl"] for row in near], rel=1e-4)
    assert far[0]["kl"] > far[-1]["kl"] > 0 and [r["lengths"] for r in far] == [r["lengths"] for r in near]


def test_a_server_that_fails_loses_nothing(new_run, server, teacher_folder, other_teacher):
    whole = tutelage.run(settings(new_run, server, teacher_folder, "whole", models=other_teacher)).folder
    table = settings(new_run, server, teacher_folder, "broken", models=other_teacher)
    steps = []

    class Breaks:
        def stage(self, *args):
            pass

        def step(self, metrics):
            steps.append(metrics)
            if metrics.get("stage") == "train" and metrics["step"] == 2:
                server.control(times=10_000)

        def note(self, text):
            pass

    from tutelage.running import runfile
    from tutelage.running.runner import Runner

    with pytest.raises(ServerError, match="503"):
        Runner(runfile.validate(table), Breaks())()
    server.control()
    again = tutelage.run(table).folder
    drop = {"time", "tokens_per_second"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in log(again)] == [{k: v for k, v in r.items() if k not in drop} for r in log(whole)]


@pytest.mark.parametrize(
    ("student", "says"),
    [
        ({"rollouts": {"url": "http://h:1", "engine": "vllm"}}, "exactly one"),
        ({"rollouts": {}}, "exactly one"),
        ({"rollouts": {"engine": "vllm", "ahead": 1}}, "ahead"),
        ({"rollouts": {"url": "http://h:1", "wieghts": "x"}}, "weights"),
        ({"shard": True, "rollouts": "vllm"}, "split over processes"),
        ({"bits": 8, "rollouts": "http://h:1"}, "eight bits"),
    ],
    ids=["two", "none", "ahead in process", "a misspelt key", "split", "eight bits"],
)
def test_settings_that_cannot_work(new_run, server, teacher_folder, student, says):
    table = settings(new_run, server, teacher_folder, "wrong", models={"student": {"load": str(teacher_folder), **student}})
    with pytest.raises(SettingError, match=says) as caught:
        tutelage.run(table)
    assert four_parts(caught.value)


def test_a_model_that_does_not_train_has_no_engine(new_run, server, teacher_folder):
    table = settings(new_run, server, teacher_folder, "wrong", models={"teacher": {"load": str(teacher_folder), "rollouts": server.url}})
    with pytest.raises(SettingError, match="nothing trains"):
        tutelage.run(table)


# -- written ahead --------------------------------------------------------------------------------------------------
AHEAD = {"model": "tiny", "timeout_seconds": 5.0, "retry_seconds": 1.0, "ahead": 1}
DROP = {"time", "tokens_per_second"}


def without_time(rows):
    return [{k: v for k, v in row.items() if k not in DROP} for row in rows]


def ahead(new_run, server, teacher_folder, name, other, **train):
    rollouts = AHEAD | {"url": server.url}
    return settings(new_run, server, teacher_folder, name, models=other, rollouts=rollouts, train={"steps": 5, **train})


def test_rounds_are_one_step_old(new_run, server, teacher_folder, other_teacher):
    """The gap of the first round is rounding, that of each later one is a step of training: so much is declared."""
    run = tutelage.run(ahead(new_run, server, teacher_folder, "ahead", other_teacher)).folder
    now = tutelage.run(settings(new_run, server, teacher_folder, "now", models=other_teacher, train={"steps": 5})).folder
    old, fresh = ([row["sampler_gap_nats"] for row in log(each)] for each in (run, now))
    assert max(fresh) < 1e-4 and old[0] < 1e-4 < 1e-3 < min(old[1:])
    assert log(run)[0]["kl"] == pytest.approx(log(now)[0]["kl"], rel=1e-6)
    again = tutelage.run(ahead(new_run, server, teacher_folder, "again", other_teacher)).folder
    assert without_time(log(again)) == without_time(log(run))


def test_what_was_written_ahead_is_in_the_checkpoint(new_run, server, teacher_folder, other_teacher):
    whole = tutelage.run(ahead(new_run, server, teacher_folder, "whole", other_teacher)).folder
    from tutelage.running import runfile
    from tutelage.running.runner import Runner
    from tutelage.training.interrupt import Interrupted

    table = ahead(new_run, server, teacher_folder, "stopped", other_teacher, checkpoint_seconds=1e-9)

    class Stops:
        def stage(self, *args):
            pass

        def step(self, metrics):
            if metrics.get("step") == 4 and metrics.get("stage") == "train":
                raise Interrupted

        def note(self, text):
            pass

    with pytest.raises(Interrupted):  # step 4 is lost, step 3 saved
        Runner(runfile.validate(table), Stops())()
    again = tutelage.run(table).folder
    assert without_time(log(again)) == without_time(log(whole))


def test_a_round_written_ahead_that_fails_stops_the_run_and_loses_nothing(new_run, server, teacher_folder, other_teacher):
    table = ahead(new_run, server, teacher_folder, "broken", other_teacher)
    from tutelage.running import runfile
    from tutelage.running.runner import Runner

    class Breaks:
        def stage(self, *args):
            pass

        def step(self, metrics):
            if metrics.get("stage") == "train" and metrics["step"] == 2:
                server.control(times=10_000)

        def note(self, text):
            pass

    with pytest.raises(ServerError):
        Runner(runfile.validate(table), Breaks())()
    done = [row["step"] for row in log(Path(table["output"]) / "tiny")]
    server.control()
    rows = log(tutelage.run(table).folder)
    assert 2 <= len(done) < 5 and [row["step"] for row in rows] == [1, 2, 3, 4, 5]


def test_ahead_is_refused_where_a_step_asks_a_model_here(new_run, server, teacher_folder):
    rollouts = AHEAD | {"url": server.url}
    table = settings(new_run, server, teacher_folder, "wrong", rollouts=rollouts)
    table["recipe"], table["args"] = "minillm", {"max_tokens": 5}
    with pytest.raises(NeedError, match=r"rollouts\.ahead") as caught:
        tutelage.run(table)
    assert four_parts(caught.value)


def test_an_engine_keeps_its_weights_while_it_is_held(engine, student, prompts):
    student.engine = engine()
    student.engine.connect(student)
    before, seen = sample(student, prompts, WARM, [1, 2, 3]), []
    student.engine.hold()
    move(student)

    def work():
        with student.engine.held():
            seen.append(sample(student, prompts, WARM, [1, 2, 3]))

    waits = threading.Thread(target=lambda: seen.append(sample(student, prompts, WARM, [1, 2, 3])))
    waits.start()
    waits.join(0.3)
    assert not seen, "new weights wait for what is being written"
    threading.Thread(target=work).start()
    waits.join(20)
    assert len(seen) == 2 and seen[0] == before != seen[1] and gaps(student, prompts, seen[1]) < 5e-5
