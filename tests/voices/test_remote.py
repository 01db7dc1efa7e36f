"""A teacher behind a server: the same figures as in this process, and every fault told and survived."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import torch

import tutelage
from tutelage.core import catalog
from tutelage.core.batch import View
from tutelage.core.context import Context
from tutelage.core.errors import ModelError, NeedError, ServerError, SettingError, StoreError
from tutelage.core.scores import Kept
from tutelage.core.signal import Read
from tutelage.data.collate import Collate
from tutelage.models.draw import Sampling
from tutelage.models.export import export
from tutelage.models.load import load
from tutelage.models.sample import sample
from tutelage.running import runfile
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match, Top
from tutelage.signals.readouts import LogProb
from tutelage.training import checkpoint as store
from tutelage.voices.remote import Remote, Server
from tutelage.voices.remote.answers import kept, rows_of
from tutelage.voices.remote.memo import Memo
from tutelage.voices.says import Says

RUN = runpy.run_path(str(Path(__file__).parents[1] / "running" / "conftest.py"))
ROWS = runpy.run_path(str(Path(__file__).parents[1] / "data" / "test_foreign.py"))["ROWS"]
data_folder, teacher_folder, new_run = RUN["data_folder"], RUN["teacher_folder"], RUN["new_run"]

TOP_RECIPE = '''
"""Top."""
from tutelage.core.recipe import Recipe, recipe
from tutelage.core.term import Term
from tutelage.recipes import base
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match, Top


@recipe(paper="none", family="mine", formula="KL on the top k")
def top(*, k: int = 6, of: str = "teacher") -> Recipe:
    """Top."""
    return base.offline(Term("kl", Match(kl_forward, on=Top(k, of=of))))
'''


class Loopback:
    """The server process, and a line to its faults."""

    def __init__(self, folder):
        script = Path(__file__).with_name("loopback.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True, env=environment)
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"
        self.control()

    def control(self, **faults):
        httpx.post(f"{self.url}/control", json=faults).raise_for_status()

    def asked(self):
        return httpx.get(f"{self.url}/count").json()


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


@pytest.fixture(scope="module")
def teacher(teacher_folder):
    return load(str(teacher_folder))


@pytest.fixture
def far(server, teacher, tmp_path):
    def make(folder=None, top_k=6, **how):
        settings = {"timeout_seconds": 5.0, "retry_seconds": 4.0, **{k: v for k, v in how.items() if k != "watch_seconds"}}
        where = Server(settings.pop("url", server.url), settings.pop("model", "tiny"), **settings)
        return Remote("teacher", where, teacher.tokenizer, top_k=top_k, watch_seconds=how.get("watch_seconds", 60.0), folder=folder)

    return make


# -- the same as in this process ------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", [{}, {"padding": "left"}, {"pack": True}], ids=["right", "left", "packed"])
def test_scores_are_those_of_the_model_in_this_process(far, teacher, how):
    batch = Collate(teacher.tokenizer, 128, **how)(ROWS)
    view, target = batch.views["main"], batch.units["tokens"].target
    with torch.no_grad():
        want = teacher.predict(view, frozenset({"next"}))["next"].at(slice(None))
    got = far().predict(view, frozenset({"next"}))["next"]
    assert isinstance(got, Kept) and got.num_categories == want.shape[1]
    top = want.topk(6)
    assert torch.equal(got.ids[:, :6].sort(-1).values, top.indices.sort(-1).values)
    whole = got.at(slice(None))
    assert torch.allclose(whole.gather(1, top.indices), top.values, atol=2e-5)
    assert torch.allclose(whole.gather(1, target[:, None]), want.gather(1, target[:, None]), atol=2e-5)
    assert torch.allclose(whole.exp().sum(-1), torch.ones(len(whole)), atol=1e-5)
    assert all(len(set(row)) == 7 for row in got.ids.tolist())


@pytest.mark.parametrize("rest", ["tail", "renormalise", "drop"])
def test_value_and_gradient_at_the_same_support(far, teacher, tiny_pair, rest):
    """At the same support a server teaches what the model in this process does, within float32."""
    batch, remote = Collate(teacher.tokenizer, 128)(ROWS), far()
    student = tiny_pair.student
    student.size = remote.size = len(teacher.tokenizer)
    signals = [Match(kl_forward, on=Top(6, rest=rest)), Match(kl_forward, on=Top(3, rest=rest)), LogProb(Read("teacher")) * LogProb()]
    found = []
    for model in (teacher, remote):
        from tutelage.core.workspace import Workspace

        ws = Workspace(Path())
        ws.models.update(teacher=model, student=student)
        model.model.requires_grad_(False)
        student.model.requires_grad_(True).zero_grad()
        ctx = Context(batch, {s: Says(s) for s in ws.models}, {}, frozenset({"student"}), ws)
        values = [ctx(s) for s in signals]
        sum(v.sum() for v in values).backward()
        found.append((values, [p.grad.clone() for p in student.model.parameters()]))
    for mine, theirs in zip(found[0][0], found[1][0], strict=True):
        assert torch.allclose(mine, theirs, atol=5e-5)
    scale = max(float(g.abs().max()) for g in found[0][1])
    assert all(float((a - b).abs().max()) < 1e-4 * scale for a, b in zip(found[0][1], found[1][1], strict=True))


def test_rows_end_with_what_a_unit_predicts(teacher):
    batch = Collate(teacher.tokenizer, 128)(ROWS)
    rows, places = rows_of(batch.views["main"])
    assert len(rows) == 3 and [rows[r][t] for r, t in places] == batch.units["tokens"].target.tolist()
    assert all(len(row) == max(t for r, t in places if r == n) + 1 for n, row in enumerate(rows))
    empty = View(batch.views["main"].inputs, torch.zeros(0, dtype=torch.long))
    assert rows_of(empty) == ([], [])


def test_the_filled_column_changes_nothing():
    said = [[{}, {3: -0.5, 1: -1.5, 0: -3.0}]]
    scores = kept([(0, 1)], said, [3], 2, 5)
    rest = 1 - sum(torch.tensor([-0.5, -1.5]).exp())
    whole = scores.at(slice(None))[0].exp()
    assert whole[[0, 2, 4]].tolist() == pytest.approx([float(rest) / 3] * 3, rel=1e-5)


def test_it_writes_as_the_model_does(far, teacher):
    prompts = [teacher.tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("one two", "three", "in the end")]
    greedy = Sampling(max_tokens=7, temperature=0.0)
    mine, theirs = sample(teacher, prompts, greedy, [1, 2, 3]), sample(far(), prompts, greedy, [1, 2, 3])
    for a, b in zip(mine, theirs, strict=True):
        assert a.ids == b.ids and a.stop == b.stop and a.log_probs == pytest.approx(b.log_probs, abs=2e-5) and set(b.drawn) == {0.0}
    warm = Sampling(max_tokens=7)
    one, again, other = (sample(far(), prompts, warm, seeds) for seeds in ([1, 2, 3], [1, 2, 3], [4, 5, 6]))
    assert one == again != other and one[0].drawn == one[0].log_probs
    cool = sample(far(), prompts, Sampling(max_tokens=3, temperature=0.7), [1, 2, 3])
    assert all(x != x for x in cool[0].drawn), "what it was drawn from is not known"


def test_without_exact_ids_the_text_is_tokenised_again(far, server, teacher):
    server.control(ids=False)
    (said,) = sample(far(), [teacher.tokenizer("one two")["input_ids"]], Sampling(max_tokens=7, temperature=0.0), [1])
    assert said.ids and all(x != x for x in said.log_probs)


# -- faults ---------------------------------------------------------------------------------------------------------
def four_parts(error):
    return error.where and error.got and error.expected and error.remedy


def one_read(remote, teacher):
    return remote.predict(Collate(teacher.tokenizer, 128)(ROWS[:1]).views["main"], frozenset({"next"}))


@pytest.mark.parametrize("fault", [{"fail": 500, "times": 2}, {"fail": 429, "times": 2}, {"cut": 30, "times": 2}], ids=["500", "429", "cut"])
def test_passing_faults_are_tried_again(far, server, teacher, fault):
    remote = far()
    server.control(**fault)
    assert len(one_read(remote, teacher)["next"]) > 3
    assert server.asked()["count"] == 1, "one good answer after two bad ones"


@pytest.mark.parametrize(
    ("fault", "how", "says"),
    [
        ({"fail": 500, "times": 99}, {}, "status 500, after"),
        ({"cut": 30, "times": 99}, {}, "no connection, or one that broke"),
        ({"slow": 3.0}, {"timeout_seconds": 0.3}, "no answer in time"),
    ],
    ids=["500", "cut", "slow"],
)
def test_lasting_faults_are_told(far, server, teacher, fault, how, says):
    remote = far(retry_seconds=1.0, **how)
    server.control(**fault)
    with pytest.raises(ServerError) as caught:
        one_read(remote, teacher)
    assert says in caught.value.got and "Nothing is lost" in caught.value.remedy and four_parts(caught.value)


def test_a_server_that_is_down(far):
    start = time.monotonic()
    with pytest.raises(ServerError, match="no connection") as caught:
        far(url="http://127.0.0.1:9", retry_seconds=0.6)
    assert four_parts(caught.value) and time.monotonic() - start < 10


def test_another_model_or_too_few_log_probs_at_the_start(far, server):
    with pytest.raises(ServerError) as caught:
        far(model="huge")
    assert caught.value.got == "models 'tiny'" and caught.value.expected == "'huge'"
    server.control(most=4)
    with pytest.raises(ServerError, match="greater than max allowed: 4"):
        far()


@pytest.mark.parametrize("tokenizes", [True, False], ids=["tokenize", "decoded tokens"])
def test_another_tokenizer_at_the_start(far, server, tokenizes):
    server.control(shift=1, tokenizes=tokenizes)
    with pytest.raises(ModelError, match="tokenizer of the server") as caught:
        far()
    assert "alm" in caught.value.remedy
    server.control(tokenizes=False)
    assert far().identity.tokens == ()


@pytest.mark.parametrize(
    ("fault", "says"),
    [({"noise": 2.0}, "moved by"), ({"name": "other"}, "models 'other'"), ({"shift": 3}, "ids")],
    ids=["weights", "name", "tokenizer"],
)
def test_a_server_that_changes_is_noticed(far, server, teacher, fault, says):
    remote = far(watch_seconds=0.0)
    one_read(remote, teacher)
    server.control(**fault)
    with pytest.raises((ServerError, ModelError)) as caught:
        one_read(remote, teacher)
    assert says in str(caught.value) and four_parts(caught.value)


def test_rounding_is_no_change(far, server, teacher, tmp_path):
    remote = far(tmp_path, watch_seconds=0.0)
    server.control(noise=0.01)
    one_read(remote, teacher)
    assert far(tmp_path).facts == remote.facts, "after a restart it is the model that it was"
    server.control(noise=2.0)
    assert far(tmp_path).facts["weights_sha256"] != remote.facts["weights_sha256"]


def test_an_answer_of_another_model_is_noticed_between_two_looks(far, server, teacher):
    remote = far(watch_seconds=1e9)
    server.control(name="other")
    with pytest.raises(ServerError, match="an answer of 'other'"):
        one_read(remote, teacher)


# -- keys -----------------------------------------------------------------------------------------------------------
def test_keys_come_from_the_environment_and_go_nowhere(far, server, teacher, tmp_path, monkeypatch):
    server.control(key="s3cret-key")
    with pytest.raises(SettingError, match="no environment variable 'TEACHER_KEY'"):
        far(api_key_env="TEACHER_KEY")
    monkeypatch.setenv("TEACHER_KEY", "s3cret-kez")
    with pytest.raises(ServerError) as caught:
        far(api_key_env="TEACHER_KEY")
    assert "401" in caught.value.got and "kez" not in str(caught.value) and "***" in caught.value.got
    monkeypatch.setenv("TEACHER_KEY", "s3cret-key")
    remote = far(api_key_env="TEACHER_KEY", folder=tmp_path)
    one_read(remote, teacher)
    assert "s3cret" not in repr(remote) + repr(remote.server) + repr(remote.facts) + repr(vars(remote))
    assert b"s3cret" not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://me:pass@host", ""], ids=str)
def test_addresses(url):
    with pytest.raises(SettingError) as caught:
        Server(url, "m")
    assert "pass@" not in str(caught.value)
    assert Server("http://h:1/v1/", "m").root == "http://h:1"


# -- what was paid for is kept --------------------------------------------------------------------------------------
def test_answers_are_kept_and_never_asked_for_twice(far, server, teacher, tmp_path):
    first = one_read(far(tmp_path), teacher)["next"]
    server.control()
    again = far(tmp_path)
    before = server.asked()["count"]
    second = one_read(again, teacher)["next"]
    assert server.asked()["count"] == before and torch.equal(first.log_probs, second.log_probs) and len(again.memo) == 1
    server.control(noise=2.0)
    other = far(tmp_path)  # other weights: its answers are its own
    one_read(other, teacher)
    assert len(other.memo) == 2


def test_a_damaged_file_of_answers(tmp_path):
    (tmp_path / "x.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="Delete it"):
        Memo(tmp_path / "x.sqlite")


def test_what_was_answered_before_a_failure_is_kept(far, server, teacher, tmp_path):
    remote = far(tmp_path, concurrency=1, retry_seconds=0.0)
    view = Collate(teacher.tokenizer, 128)(ROWS).views["main"]
    server.control(fail=500)
    inner, count = remote.line.ask, []

    def ask(*request):
        count.append(1)
        if len(count) == 3:
            server.control(fail=500, times=1)
        return inner(*request)

    remote.line.ask = ask
    with pytest.raises(ServerError):
        remote.predict(view, frozenset({"next"}))
    assert len(remote.memo) == 2
    assert len(remote.predict(view, frozenset({"next"}))["next"]) and len(remote.memo) == 3


# -- whole runs -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def student_folder(new_causal, tmp_path_factory):
    return export(new_causal("student", seed=2), tmp_path_factory.mktemp("models") / "student", card={"licence": "mit"})


@pytest.fixture
def table(new_run, server, student_folder, tmp_path):
    def make(**changes):
        far = {"url": server.url, "model": "tiny", "top_k": 6, "retry_seconds": 0.5, "timeout_seconds": 5.0}
        far |= changes.pop("far", {})
        settings = {"steps": 4, "batch_size": 4, "micro_batch_size": 2, "max_length": 96, "learning_rate": 3e-3}
        file = tmp_path / "top.py"
        file.write_text(TOP_RECIPE)
        models = {"teacher": far, "student": str(student_folder)}
        return new_run(**{"recipe": str(file), "args": {}, "models": models, "train": settings, **changes})

    return make


def log(folder):
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_against_a_server_is_a_run_against_the_model(table, teacher_folder, student_folder):
    served = tutelage.run(table())
    models = {"teacher": str(teacher_folder), "student": str(student_folder)}
    here = tutelage.run(table(models=models, output="here"))
    for a, b in zip(log(served.folder), log(here.folder), strict=True):
        assert a["kl"] == pytest.approx(b["kl"], rel=1e-4) and a["kl"] > 0.01
    facts = json.loads((served.folder / "run.json").read_text())["facts"]["teacher"]
    assert facts["spec"].endswith(" tiny") and facts["weights_sha256"] and (served.folder / "bits.json").exists()
    resolved = (served.folder / "run.toml").read_text()
    assert "[models.teacher.server]" in resolved
    assert runfile.read(served.folder / "run.toml").models["teacher"].server.model == "tiny"


def test_a_run_goes_on_after_the_server_failed(table, server, monkeypatch):
    """Nothing that was done is lost: the log of the two parts is that of an undisturbed run."""
    whole = tutelage.run(table(output="whole"))
    from tutelage.training.loop import Loop

    step = Loop._step

    def failing(self, progress):
        if progress.step == 2:
            server.control(fail=500, times=99)
        return step(self, progress)

    monkeypatch.setattr(Loop, "_step", failing)
    with pytest.raises(ServerError, match="status 500"):
        tutelage.run(table(output="parts"))
    monkeypatch.undo()
    server.control()
    folder = next(Path(whole.folder).parents[1].glob("parts/*/checkpoints/train"))
    assert store.latest(folder).step == 2, "saved where it stopped, not at the last due checkpoint"
    done = tutelage.run(table(output="parts"))
    one, two = log(whole.folder), log(done.folder)
    assert [r["step"] for r in two] == [1, 2, 3, 4]
    assert [r["loss"] for r in one] == pytest.approx([r["loss"] for r in two], abs=1e-6)


def test_a_server_may_move(table, server):
    """The same run goes on where its server stands at another address; with another model it is another run."""
    done = tutelage.run(table())
    moved = {"url": server.url.replace("127.0.0.1", "localhost"), "retry_seconds": 0.4}
    assert len(log(tutelage.run(table(far=moved)).folder)) == len(log(done.folder)) == 4
    with pytest.raises(StoreError, match="top_k"):
        tutelage.run(table(far={"top_k": 7}))


def test_a_teacher_that_writes(table, server):
    done = tutelage.run(table(recipe="seqkd", args={"max_tokens": 5}, far={"top_k": 0, "watch_seconds": 0}))
    rows = [json.loads(x) for x in (done.folder / "data" / "write" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and all(r["pieces"][-1]["ids"] for r in rows) and len(log(done.folder)) == 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"recipe": "forward_kl"}, "next"),
        ({"args": {"of": "student"}}, "next"),
        ({"args": {"k": 9}}, "the 9 most probable"),
        ({"far": {"top_k": 0}}, "next.top"),
        ({"recipe": "alm"}, "next"),
    ],
    ids=["whole distribution", "the student's categories", "more than it gives", "text alone", "merged chunks"],
)
def test_what_a_server_does_not_give_is_refused_before_anything_loads(table, changes, says, monkeypatch):
    monkeypatch.setattr("tutelage.running.assemble.load", lambda *a, **k: pytest.fail("weights were loaded"))
    with pytest.raises(NeedError) as caught:
        tutelage.run(table(**changes))
    assert says in caught.value.expected and four_parts(caught.value)


def test_alm_needs_of_a_server_only_what_is_there(table):
    done = tutelage.run(table(recipe="alm", args={"merge_above": 0.0}))
    assert all(r["loss"] >= 0 for r in log(done.folder))


def test_a_server_with_another_tokenizer(table, teacher_folder, tmp_path):
    """The server's tokenizer is named; its log-probabilities are aligned with the student's by bytes."""
    kit = runpy.run_path(str(Path(__file__).with_name("kit.py")))
    student = export(kit["causal"]("bytes", kit["byte_tokenizer"](), seed=4), tmp_path / "bytes", card={"licence": "mit"})
    run = table(recipe="alm", args={"merge_above": 0.0}, train__max_length=160, far={"tokenizer": str(teacher_folder)})
    run["models"]["student"] = str(student)
    done = tutelage.run(run)
    assert all(r["loss"] > 0 for r in log(done.folder)) and len(log(done.folder)) == 4
    with pytest.raises(ModelError, match="tokenizer of the server"):
        run["models"]["teacher"].pop("tokenizer")
        tutelage.run({**run, "name": "other"})


def test_settings_of_a_server(table):
    with pytest.raises(SettingError, match="timeout_seconds"):
        runfile.validate(table(far={"timeout": 3}))
    with pytest.raises(SettingError, match="load, shrink and url"):
        runfile.validate(table(far={"load": "x"}))
    made = tutelage.plan(runfile.validate(table()))
    assert made.loads["teacher"].startswith("tiny at http") and made.stages[0].seconds


def test_needs_of_single_tokens():
    from tutelage.core.needs import LOG_PROBS, check

    check(catalog.build("alm", {"merge_above": 0.0}), {"teacher": LOG_PROBS})
    with pytest.raises(NeedError):
        check(catalog.build("alm"), {"teacher": LOG_PROBS})
