"""A sandbox for programs that a model wrote: a process of its own, with limits, and no network where possible.

It guards against accidents: endless loops, exhausted memory, early exits that look like success, stray files and
connections. It is no prison for an attacker; run models that may attack in a container or a virtual machine.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import SettingError

INSIDE = Path(__file__).with_name("inside.py")
FILE_BYTES = 16 << 20
PRINTED = 2000


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Args:
        wall_seconds: Time until the process, and all that it started, is killed.
        cpu_seconds: Processor time.
        memory_bytes: Address space; Python itself takes some 30 MB.
    """

    wall_seconds: float = 10.0
    cpu_seconds: float = 5.0
    memory_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        if not (self.wall_seconds > 0 and self.cpu_seconds > 0 and self.memory_bytes >= 64 << 20):
            raise SettingError(
                "Limits",
                got=f"{self.wall_seconds} s, {self.cpu_seconds} s of processor, {self.memory_bytes} bytes",
                expected="times above 0 and at least 64 MiB",
                remedy="10 s, 5 s and 1 GiB are usual.",
            )


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Args:
        passed: It ran to its last line.
        why: Why not: the error, ``time``, or ``ended early`` (an exit, a kill, memory).
        alone: It had no network.
        printed: What it wrote to its standard output, at most ``PRINTED`` characters.
    """

    passed: bool
    why: str = ""
    alone: bool = False
    printed: str = ""


def run(program: str, limits: Limits | None = None) -> Ended:
    """Run a Python program in an empty folder, with an empty environment.

    A program passes only if its last line was reached: leaving before, also with exit code 0, does not pass.
    """
    limits = limits or Limits()
    token = secrets.token_hex(16)
    read, write = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="tutelage-program-", ignore_cleanup_errors=True) as folder:
            job = {
                "program": program,
                "token": token,
                "out": write,
                "cpu_seconds": limits.cpu_seconds,
                "memory_bytes": limits.memory_bytes,
                "file_bytes": FILE_BYTES,
                "printed": PRINTED,
            }
            in_time = _child(json.dumps(job).encode(), folder, write, limits.wall_seconds)
            os.close(write)
            write = -1
            os.set_blocking(read, False)
            said = _drained(read)
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
    if not in_time:
        return Ended(False, "time")
    found = said.partition(token)
    if not found[1]:
        return Ended(False, "ended early")
    word = json.loads(found[2])
    return Ended(word["passed"], word["why"], word["alone"], word["printed"])


def _child(job: bytes, folder: str, out: int, seconds: float) -> bool:
    """Whether it ended in time; whatever it started is gone afterwards."""
    environment = {"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"}
    process = subprocess.Popen(
        [sys.executable, "-I", "-B", str(INSIDE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        pass_fds=(out,),
        start_new_session=True,
    )
    try:
        process.communicate(job, timeout=seconds)
        return True
    except subprocess.TimeoutExpired:
        return False
    except BrokenPipeError:
        return True
    finally:
        # the whole group: what the program started must not outlive it
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _drained(read: int) -> str:
    parts = []
    with suppress(BlockingIOError):
        while part := os.read(read, 1 << 16):
            parts.append(part)
    return b"".join(parts).decode(errors="replace")
