"""What benchmarks share: fresh processes, clocks, and results that say where they come from."""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("tutelage", "torch", "transformers")


@dataclass(frozen=True)
class Result:
    """A table: what was measured, under which settings."""

    name: str
    caption: str
    settings: dict[str, Any]
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def fresh(function: str, **settings: Any) -> dict[str, Any]:
    """Call ``module:function`` with these settings in a process of its own; it returns what JSON can hold."""
    command = [sys.executable, "-m", "benchmarks.common", function, json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def device_name(device: str) -> str:
    """The processor's or the accelerator's name."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def settle(device: str) -> None:
    """Wait for the accelerator."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], device: str, *, repeats: int = 5, warm: int = 1) -> float:
    """The median time of ``repeats`` calls after ``warm`` others."""
    taken = []
    for number in range(warm + repeats):
        settle(device)
        start = perf_counter()
        work()
        settle(device)
        if number >= warm:
            taken.append(perf_counter() - start)
    return statistics.median(taken)


def peak_bytes(device: str) -> int:
    """The most memory this process has held: resident on a CPU, allocated on an accelerator."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def start_peak(device: str) -> int:
    """Forget the highest use of memory so far; returns what is in use now."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    forget = Path("/proc/self/clear_refs")
    if forget.exists():
        forget.write_text("5")
    return highest(device)


def highest(device: str) -> int:
    """The highest use of memory since ``start_peak``, of the whole process where that cannot be told."""
    status = Path("/proc/self/status")
    if device.startswith("cuda") or not status.exists():
        return peak_bytes(device)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """The size of ``a - b`` relative to that of ``b``, both as one vector."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def keep(result: Result, device: str, write: bool) -> None:
    """Print a result and, if asked, write it with what it depends on; no date, so that equal runs give equal files."""
    table = Table(*result.columns, title=result.name, caption=f"{result.caption}\n{device_name(device)}")
    for row in result.rows:
        table.add_row(*map(_shown, row))
    Console().print(table)
    if not write:
        return
    where = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{result.name}-{device.partition(':')[0]}.json"
    file.write_text(json.dumps(asdict(result) | where, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _shown(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.2e}" if cell and abs(cell) < 1e-3 else f"{cell:.3f}" if abs(cell) < 100 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _arm(arguments: Sequence[str]) -> None:
    module, _, name = arguments[0].partition(":")
    print(json.dumps(getattr(importlib.import_module(module), name)(**json.loads(arguments[1]))))


if __name__ == "__main__":
    _arm(sys.argv[1:])
