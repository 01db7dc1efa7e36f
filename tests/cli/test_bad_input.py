"""Bad input: exit code 2, one message that says where, what, what was expected and what to do; nothing is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tutelage as package
from tutelage.models.export import export
from tutelage.training import checkpoint as store
from tutelage.training.log import Silent


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["rnu"], ["rnu"]),
        ([], None),
        (["show"], ["NAME"]),
        (["show", "gdk"], ["recipe", "'gdk'", "Did you mean 'gkd'"]),
        (["show", "nothing at all"], ["Known:", "forward_kl"]),
        (["list", "--jsno"], ["--jsno"]),
        (["run", "none.toml"], ["none.toml", "no such file", "tutelage show"]),
        (["plan", "none.toml"], ["none.toml"]),
        (["run"], ["FILE"]),
        (["report", "no-such-run"], ["no-such-run", "no such folder"]),
        (["compare", "no-such-run"], ["no-such-run"]),
        (["evaluate", "a", "--teacher", "b"], ["--data"]),
        (["evaluate", "nowhere", "--teacher", "nowhere", "--data", "nowhere.jsonl"], ["nowhere"]),
    ],
)
def test_commands(arguments, words, tutelage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = tutelage(*arguments)
    if words is None:
        assert told.code == 0 and "Usage" in told.out, "without a command: the help"
    else:
        told.refused(*words)
    assert list(tmp_path.iterdir()) == []


UNKNOWN = [
    ("recipe", "strong_to_weka", "strong_to_weak"),
    ("sede", 1, "seed"),
    ("args__max_token", 3, "max_tokens"),
    ("models__student__shrnk", 1, "shrink"),
    ("models__student__shrink__layer", 1, "layers"),
    ("data__train__limits", 4, "limit"),
    ("data__train__columns", {"promt": "x"}, "prompt"),
    ("train__lerning_rate", 0.1, "learning_rate"),
    ("train__imitate__stepz", 3, "steps"),
    ("train__imitat", {"steps": 3}, "imitate"),
    ("evaluate__num_record", 3, "num_records"),
    ("models__student__shrink__source", "techer", "teacher"),
    ("models__student__shrink__rows", "trian", "train"),
]


@pytest.mark.parametrize("key, value, near", UNKNOWN, ids=[k for k, *_ in UNKNOWN])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_unknown_names_at_each_level_are_told_with_near_ones(command, key, value, near, tutelage, run_file, new_run):
    tutelage(command, run_file(**{key: value})).refused(near)
    folder = Path(new_run()["output"]) / "tiny"
    assert not folder.exists() or [p.name for p in folder.iterdir()] == ["run.toml"], "nothing was begun"


def test_a_mended_file_runs_in_the_same_folder(tutelage, run_file):
    """Settings count as the run's own once something was made with them, not before."""
    quick = {"recipe": "supervised", "args": {}, "train": {"steps": 1, "batch_size": 2}, "data__held_out": None}
    tutelage("run", run_file(**quick, data__train__path="typo.jsonl")).refused("typo.jsonl")
    assert tutelage("run", run_file(**quick)).code == 0


WRONG = [
    ("seed", -1, "seed"),
    ("seed", "one", "seed"),
    ("name", "../x", "name"),
    ("name", "a/b", "name"),
    ("name", "", "name"),
    ("name", ".hidden", "name"),
    ("args__max_tokens", "many", "max_tokens"),
    ("args__max_tokens", 0, "max_tokens"),
    ("args__max_tokens", 2.5, "max_tokens"),
    ("args__temperature", -1.0, "temperature"),
    ("args__trains", "prompt", "trains"),
    ("args__trains", 3, "trains"),
    ("train__learning_rate", 0, "learning_rate"),
    ("train__steps", 0, "steps"),
    ("train__imitate__steps", "ten", "steps"),
    ("train__schedule", "steep", "schedule"),
    ("train__keep_best", True, "watch_every"),
    ("train__freeze", ["no_such_weight"], "no_such_weight"),
    ("train__batch_size", 0, "batch_size"),
    ("evaluate__trains", "none", "trains"),
    ("evaluate__num_records", 0, "num_records"),
    ("models__student", {"shrink": {"layers": 2}, "load": "x"}, "exactly one"),
    ("models__student", {}, "exactly one"),
    ("models__student__shrink__layers", 9, "9"),
    ("models__student__shrink__layers", 0, "0"),
    ("models__student__shrink__width", 1.5, "width"),
    ("models__student__dtype", "bfloat16", "float32"),
    ("models__teacher", "no/such/folder", "no/such/folder"),
    ("models__teacher", "hub:org/name", "revision"),
    ("models__teacher", None, "teacher"),
    ("models__../../evil", "x", "evil"),
    ("data__../evil", "x", "evil"),
    ("data__train", None, "train"),
    ("data__train__path", "no-such.jsonl", "no-such.jsonl"),
    ("data__train__skip", 99, "99"),
    ("train__log", ["paper"], "log"),
]


@pytest.mark.parametrize("key, value, word", WRONG, ids=[f"{k}={v}" for k, v, _ in WRONG])
def test_wrong_types_and_ranges(key, value, word, tutelage, run_file):
    tutelage("run", run_file(**{key: value})).refused(word)


@pytest.mark.parametrize(
    "override, words",
    [
        ("train.steps", ["key=value", "--set train.steps=50"]),
        ("=3", ["key=value"]),
        ("train.imitate.steps.deep=3", ["steps"]),
        ("trian.steps=3", ["train"]),
        ("name=../x", ["name"]),
    ],
)
def test_overrides(override, words, tutelage, run_file):
    tutelage("run", run_file(), "--set", override).refused(*words)


@pytest.mark.parametrize("text", ["recipe = ", "[a\nb = 1", "recipe = 'x'\nrecipe = 'y'", b"\xff\xfe"])
def test_malformed_toml(text, tutelage, tmp_path):
    file = tmp_path / "it.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    tutelage("run", file).refused("it.toml", "TOML")


GOOD = {"prompt": "p", "completion": "c"}
DATA = {
    "malformed JSON": ('{"prompt": "a", "completion": "b"}\n{"prompt": \n', ["bad.jsonl, line 2"]),
    "not an object": ("[1]\n", ["line 1"]),
    "empty": ("", ["bad.jsonl", "no rows"]),
    "blank lines": ("\n\n", ["no rows"]),
    "no known column": ('{"question": "a"}\n', ["line 1", "columns"]),
    "a number for a text": ('{"prompt": 3, "completion": "b"}\n', ["line 1"]),
    "another shape later": (json.dumps(GOOD) + '\n{"text": "x"}\n', ["line 2"]),
    "duplicated ids": ('{"id": "x", "prompt": "a", "completion": "b"}\n' * 2, ["line 2", "'x'", "line 1"]),
    "not UTF-8": (b'{"prompt": "\xff", "completion": "b"}\n', ["line 1", "UTF-8"]),
    "a prompt longer than max_length": (json.dumps({"id": "long", "prompt": "word " * 99, "completion": "b"}) + "\n", ["long", "max_length=96"]),
    "no answers, so nothing trains": ("".join(json.dumps({"id": f"m{i}", "messages": [{"role": "user", "content": "a"}]}) + "\n" for i in range(4)), ["without a trained position"]),
    "a row that no role fits": ('{"messages": [{"role": "king", "content": "a"}]}\n', ["line 1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_data(name, tutelage, run_file, tmp_path):
    content, words = DATA[name]
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = {"path": str(file), "chat": "prompt" in str(content)}
    settings = {"steps": 1, "batch_size": 2, "max_length": 96}
    tutelage("run", run_file(recipe="supervised", args={}, data__train=table, data__held_out=None, train=settings)).refused(*words)


def test_different_tokenizers(tutelage, run_file, new_causal, new_tokenizer, tmp_path):
    other = new_causal("other", tokenizer=new_tokenizer(extra=("zebra",)))
    export(other, tmp_path / "other", card={})
    file = run_file(models__student=str(tmp_path / "other"))
    tutelage("run", file).refused("vocabulary", "262", "263", "align")


def test_another_end_of_answer(tutelage, run_file, new_causal, new_tokenizer, tmp_path):
    base = new_causal("base", tokenizer=new_tokenizer(chat=False))
    export(base, tmp_path / "base", card={})
    tutelage("run", run_file(models__student=str(tmp_path / "base"))).refused("adopt")


def test_a_teacher_that_cannot_give_what_is_read(tutelage, run_file, tmp_path):
    file = tmp_path / "needy.py"
    file.write_text(
        '"""Needy."""\nfrom tutelage.core.recipe import Recipe, recipe\nfrom tutelage.core.signal import Read\n'
        "from tutelage.core.term import Term\nfrom tutelage.recipes import base\n"
        "from tutelage.signals.match import Match, squared_error\n\n"
        '@recipe(paper="none", family="mine", formula="x")\ndef needy(*, what: str = "energy") -> Recipe:\n'
        '    """Needs."""\n    return base.offline(Term("x", Match(squared_error, Read("student", what), Read("teacher", what))))\n'
    )
    tutelage("run", run_file(recipe=str(file), args={}, train={})).refused("energy", "gives")
    settings = {"steps": 1, "batch_size": 2}
    tutelage("run", run_file(recipe=str(file), args={"what": "hidden.9"}, train=settings)).refused("hidden.9", "hidden.K")


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 64), ["missing or corrupt"]),
        (lambda f: (f / "model.safetensors").unlink(), ["no weights"]),
        (lambda f: (f / "config.json").write_text("{"), ["teacher"]),
        (lambda f: (f / "config.json").unlink(), ["config.json"]),
        (lambda f: (f / "tokenizer.json").write_text("{"), ["teacher"]),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), ["pickled"]),
    ],
)
def test_broken_model_folders(harm, words, tutelage, run_file, teacher_folder, tmp_path):
    shutil.copytree(teacher_folder, tmp_path / "teacher")
    harm(tmp_path / "teacher")
    tutelage("run", run_file(models__teacher=str(tmp_path / "teacher"))).refused(*words)


class Off(Silent):
    """Cuts the power after a step."""

    def step(self, metrics):
        if metrics["step"] == 2 and metrics["stage"] == "imitate":
            raise InterruptedError


@pytest.mark.parametrize("harm", ["flip", "truncate", "missing file"])
def test_corrupt_checkpoints(harm, tutelage, run_file, new_run):
    with pytest.raises(InterruptedError):
        package.run(new_run(), listener=Off())
    folder = Path(new_run()["output"]) / "tiny" / "checkpoints" / "imitate"
    (saved,) = store.steps(folder)
    bad = saved / "slot-student.safetensors"
    data = bytearray(bad.read_bytes())
    data[-3] ^= 1
    bad.unlink() if harm == "missing file" else bad.write_bytes(data if harm == "flip" else data[:-9])
    tutelage("run", run_file()).refused("checkpoint", str(bad), "Delete")
    shutil.rmtree(saved)
    assert tutelage("run", run_file()).code == 0, "what the message said to do lets the run go on"


def test_rows_of_another_teacher_are_refused(tutelage, run_file, new_run, new_causal, tmp_path):
    """Same settings, other weights in the same place: the kept answers are not taken for the new teacher's."""
    export(new_causal("teacher", seed=1), tmp_path / "teacher", card={})
    table = {"models__teacher": str(tmp_path / "teacher")}
    with pytest.raises(InterruptedError):
        package.run(new_run(**table), listener=Off())
    export(new_causal("teacher", seed=8), tmp_path / "teacher", card={})
    tutelage("run", run_file(**table)).refused("teacher's weights")


def test_a_tracker_that_is_not_installed(tutelage, run_file, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else real(name, *a))
    tutelage("run", run_file(train__log=["wandb"])).refused("wandb", "pip install 'tutelage[track]'")


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was(tutelage, run_file, new_causal, tmp_path):
    import torch

    broken = new_causal("student", seed=2, num_hidden_layers=2)
    with torch.no_grad():
        broken.model.model.norm.weight.fill_(1e30)
    export(broken, tmp_path / "student", card={})
    tutelage("run", run_file(models__student=str(tmp_path / "student"), data__held_out=None)).refused("finite")
    assert (tmp_path / "runs" / "tiny" / "data" / "write" / "rows.jsonl").exists()


def test_settings_of_evaluate(tutelage, teacher_folder, data_folder):
    base = ["evaluate", teacher_folder, "--teacher", teacher_folder, "--data", data_folder / "held.jsonl"]
    tutelage(*base, "--skip", "-1").refused("skip")
    tutelage(*base, "--num-records", "0").refused("num_records")
    tutelage(*base, "--num-records", "many").refused("num-records")
    tutelage(*base, "--columns.prompts", "x").refused("prompts")
