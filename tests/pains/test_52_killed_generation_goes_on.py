"""Elsewhere inference died and could not be restarted, or restarted with rows lost or doubled."""

import json
import random
import signal
import subprocess
import sys
import time

CHILD = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from tutelage.core.record import Piece, Record
from tutelage.core.workspace import Workspace
from tutelage.data.store import RowStore, generate

@dataclass(frozen=True)
class Slow:
    reads = "row"
    def __call__(self, records, ws):
        batch = list(records)
        for record in batch:
            time.sleep(0.002)
            said = " ".join(r.id for r in batch) + " é" * 400
            for k in range(3):
                yield Record(f"{record.id}#{k}", (Piece(said, trains=True),), group=record.id)

prompts = [Record(f"p{n}", (Piece("Q"),)) for n in range(90)]
folder = Path(sys.argv[1])
print("go", flush=True)
for done in generate((Slow(),), prompts, Workspace(folder), RowStore(folder, {"steps": "1"}), 4):
    pass
print("done", flush=True)
"""


def start(folder):
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "go\n"
    return child


def test_kill_9_anywhere_gives_the_undisturbed_file(tmp_path):
    child = start(tmp_path / "whole")
    assert child.communicate()[0] == "done\n" and child.returncode == 0
    draws, kills = random.Random(0), 0
    for _ in range(4):
        child = start(tmp_path / "part")
        time.sleep(draws.uniform(0.02, 0.08))
        child.send_signal(signal.SIGKILL)
        out, _ = child.communicate()
        kills += out != "done\n"
    child = start(tmp_path / "part")
    assert child.communicate()[0] == "done\n"
    assert kills >= 2
    whole = (tmp_path / "whole" / "rows.jsonl").read_bytes()
    assert (tmp_path / "part" / "rows.jsonl").read_bytes() == whole
    ids = [json.loads(line)["id"] for line in whole.splitlines()]
    assert ids == [f"p{n}#{k}" for n in range(90) for k in range(3)]
