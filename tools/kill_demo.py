"""Kill a short run of the demo again and again, and compare what it ends with: the weights must be the same bytes.

python -m tools.kill_demo [--output FOLDER]   about six minutes on two cores
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHORT = (
    "data.train.limit=12", "models.student.shrink.num_records=12", "args.max_tokens=24", "train.imitate.steps=4",
    "train.correct.steps=3", "train.correct.batch_size=4", "train.checkpoint_seconds=1", "evaluate.num_records=2",
    "evaluate.num_samples=1", "evaluate.max_tokens=16",
)  # fmt: skip
# The run is killed a moment after it prints a line that begins so.
MARKS = ("measure before", "write:", "imitate 2/4", "correct 1/3", "measure after")


def start(name: str, output: Path) -> subprocess.Popen[str]:
    """The run, in a process group of its own."""
    command = [Path(sys.executable).with_name("tutelage"), "run", "examples/demo.toml"]
    for setting in (f"name={name}", f"output={output}", *SHORT):
        command += ["--set", setting]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(name: str, output: Path) -> str:
    """Run to the end; a fingerprint of the student's weights."""
    process = start(name, output)
    said = process.communicate()[0]
    if process.returncode:
        sys.exit(f"the run {name!r} failed:\n{said[-2000:]}")
    return hashlib.sha256((output / name / "student" / "model.safetensors").read_bytes()).hexdigest()


def kill_at(mark: str, name: str, output: Path) -> bool:
    """Kill the run soon after the line; whether the line came."""
    process = start(name, output)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(mark):
            time.sleep(0.1)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
    process.wait()
    return False


def main() -> int:
    """Print each kill, then whether the weights are the same."""
    parser = argparse.ArgumentParser("python -m tools.kill_demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, help="where the runs go; by default a folder that is deleted")
    asked = parser.parse_args()
    output = asked.output or Path(tempfile.mkdtemp())
    want = finish("whole", output)
    missed = 0
    for mark in MARKS:
        came = kill_at(mark, "killed", output)
        missed += not came
        print(f"{mark!r}: {'killed' if came else 'the line did not come'}", flush=True)
    same = finish("killed", output) == want
    print(f"weights: {'the same bytes' if same else 'DIFFERENT'}")
    if not asked.output:
        shutil.rmtree(output)
    return 0 if same and not missed else 1


if __name__ == "__main__":
    sys.exit(main())
