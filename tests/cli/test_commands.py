"""Every command: its help, what it prints, and JSON of the same."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tutelage.core import catalog
from tutelage.running import runfile

COMMANDS = ("list", "show", "run", "plan", "evaluate", "compare", "report", "doctor")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command, tutelage):
    told = tutelage(command, "--help")
    assert told.code == 0
    assert f"Example: tutelage {command}" in told.out and "Usage" in told.out


def test_the_first_help_names_every_command(tutelage):
    told = tutelage("--help")
    assert told.code == 0 and all(f" {c} " in told.out for c in COMMANDS)


def test_list(tutelage):
    told = tutelage("list")
    assert told.code == 0 and all(name in told.out for name in catalog.names())
    rows = json.loads(tutelage("list", "--json").out)
    assert [r["name"] for r in rows] == catalog.names()
    assert all(r["family"] and r["paper"] and r["summary"] and r["needs"] and r["uses"] for r in rows)


def test_list_uses_is_a_table_of_recipe_by_part(tutelage):
    told = tutelage("list", "--uses")
    rows = json.loads(tutelage("list", "--json").out)
    assert all(name in told.out for name in catalog.names())
    parts = {p for r in rows for p in r["uses"]}
    assert parts >= {"Match", "Targets", "Ask", "Live", "Corpus", "Jensen", "kl_forward"}
    for part in parts:
        (line,) = [x for x in told.out.splitlines() if x.split()[:1] == [part]]
        assert line.split().count("x") == sum(part in r["uses"] for r in rows)


@pytest.mark.parametrize("name", catalog.names())
def test_show(name, tutelage):
    told, facts = tutelage("show", name), json.loads(tutelage("show", name, "--json").out)
    assert told.code == 0
    assert facts["name"] == name and facts["formula"] in told.out
    for key, argument in facts["arguments"].items():
        assert argument["text"] and key in told.out
    for limit in facts["limits"]:
        assert limit in told.out
    run = runfile.validate({**tomllib.loads(facts["example"]), "name": "x"})
    assert run.recipe == name and catalog.build(name, run.args)


def test_show_takes_dashes_and_files(tutelage, tmp_path):
    assert tutelage("show", "strong-to-weak").code == 0
    file = tmp_path / "mine.py"
    file.write_text(
        '"""Mine."""\nfrom tutelage.core.recipe import Recipe, recipe\nfrom tutelage.core.term import Term\n'
        "from tutelage.recipes import base\nfrom tutelage.signals.match import Targets\n\n"
        '@recipe(paper="none", family="mine", formula="a formula")\ndef mine() -> Recipe:\n'
        '    """Only mine."""\n    return base.offline(Term("labels", Targets()))\n'
    )
    told = tutelage("show", file)
    assert told.code == 0 and "a formula" in told.out and "Only mine." in told.out


def test_a_file_that_is_no_recipe_is_refused(tutelage, tmp_path):
    for text, word in (("x = 1", "@recipe"), ("1 / 0", "ZeroDivisionError"), ("def mine():\n  pass", "@recipe")):
        (tmp_path / "mine.py").write_text(text)
        tutelage("show", tmp_path / "mine.py").refused("mine.py", word)
    tutelage("show", tmp_path / "none.py").refused("no such file")


def test_run_then_report_evaluate_and_compare(tutelage, run_file, new_run, data_folder):
    file = run_file(recipe="forward_kl", args={}, train={"steps": 2, "batch_size": 4, "max_length": 96})
    told = tutelage("run", file, "--set", "seed=7", "--set", "train.learning_rate=1e-3")
    assert told.code == 0, told.err
    for word in ("measure before", "train 1/2", "KL to the teacher", "student", "report.html", "--set seed=7"):
        assert word in told.out, (word, told.out)
    table = new_run()
    folder = f"{table['output']}/tiny"
    assert tomllib.loads(Path(folder, "run.toml").read_text())["seed"] == 7
    assert "--set seed=7" in json.loads(Path(folder, "run.json").read_text())["command"]
    assert tutelage("report", folder).code == 0
    wanted = ("--teacher", table["models"]["teacher"], "--data", data_folder / "held.jsonl", "--chat", "--num-records", "3")
    told = tutelage("evaluate", f"{folder}/student", *wanted)
    assert told.code == 0 and "3 records" in told.out and "top-1 agreement" in told.out
    result = json.loads(tutelage("evaluate", f"{folder}/student", *wanted, "--json").out)
    assert result["held_out"]["num_records"] == 3 and f"{folder}/student" in result
    again = tutelage("run", file, "--set", "seed=7", "--set", "train.learning_rate=1e-3")
    assert again.code == 0 and "train 1/2" not in again.out, "nothing is done twice"
    other = run_file(recipe="supervised", args={}, name="other", train={"steps": 2, "batch_size": 4, "max_length": 96})
    assert tutelage("run", other).code == 0
    told = tutelage("compare", folder, f"{table['output']}/other", "--by-name")
    assert told.code == 0 and any(v in told.out for v in ("better", "worse", "cannot tell"))
    assert json.loads(tutelage("compare", folder, f"{table['output']}/other", "--by-name", "--json").out)


def test_plan(tutelage, run_file):
    file = run_file()
    told = tutelage("plan", file, "--no-timed")
    assert told.code == 0
    for word in ("memory at the peak", "weights of teacher", "on disk", "imitate", "not timed", "12 rows", "total"):
        assert word in told.out, word
    table = json.loads(tutelage("plan", file, "--json", "--no-timed", "--set", "train.imitate.steps=77").out)
    assert [s["steps"] for s in table["stages"]] == [1, 77, 3]


def test_doctor(tutelage):
    told = tutelage("doctor")
    assert told.code == 0 and "torch" in told.out and "free disk" in told.out
    facts = json.loads(tutelage("doctor", "--json").out)
    assert facts["memory_gb"] > 0 and set(facts["features"].values()) and facts["versions"]["python"] == sys.version.split()[0]


def test_the_program_as_installed():
    done = subprocess.run([sys.executable, "-m", "tutelage", "show", "gdk"], capture_output=True, text=True)
    assert done.returncode == 2 and "'gkd'" in done.stderr and "Traceback" not in done.stderr + done.stdout
