"""What runs inside the sandbox: limits first, then the program, then a word that only a finished program sends.

Started as a file by ``sandbox.run`` in a process of its own; it imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import sys

NEW_USER, NEW_NET = 0x10000000, 0x40000000


def limit(cpu_seconds: float, memory_bytes: int, file_bytes: int) -> None:
    """Bound processor time, address space and the size of files; no core dumps."""
    try:
        import resource
    except ImportError:  # not a Unix system: the wall clock alone bounds it
        return
    bounds = {
        resource.RLIMIT_CPU: int(cpu_seconds) + 1,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CORE: 0,
    }
    for what, bound in bounds.items():
        hard = resource.getrlimit(what)[1]
        most = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(what, (most, most))


def without_network() -> bool:
    """Leave for a network of one's own, with nothing in it; False where the kernel does not allow it."""
    try:
        return ctypes.CDLL(None, use_errno=True).unshare(NEW_USER | NEW_NET) == 0
    except (OSError, AttributeError, TypeError):
        return False


def main() -> None:
    """Read a job from the standard input, run it, and report on the file descriptor that the job names."""
    job = json.loads(sys.stdin.buffer.read())
    out = job["out"]
    alone = without_network()
    limit(job["cpu_seconds"], job["memory_bytes"], job["file_bytes"])
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    word = {"alone": alone, "passed": False, "why": "", "printed": ""}
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            exec(compile(job["program"], "program", "exec"), {"__name__": "program"})
        word["passed"] = True
    except BaseException as error:  # a program may end in any way, SystemExit among them
        with contextlib.suppress(BaseException):
            word["why"] = f"{type(error).__name__}: {error}"[:300]
    with contextlib.suppress(BaseException):
        word["printed"] = said.getvalue()[: job["printed"]]
    os.write(out, (job["token"] + json.dumps(word)).encode())


if __name__ == "__main__":
    main()
