"""The environment in which the peers live beside us: one interpreter and one torch, so that arms differ by code alone.

`python -m tools.peers_env` makes it in `.venv-peers`; `TUTELAGE_PEERS` names another one.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from tools.vllm_env import python_of

from tutelage.core.errors import StoreError

from .common import ROOT

PEERS = ("trl", "liger_kernel", "distillkit")
PACKAGES = ("tutelage", "torch", "transformers", *PEERS)
VERSIONS = f"""
import json
from importlib.metadata import PackageNotFoundError, version
found = {{}}
for name in {PACKAGES!r}:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        found[name] = ""
print(json.dumps(found))
"""


def home() -> Path:
    """Where the environment is looked for."""
    return Path(os.environ.get("TUTELAGE_PEERS") or ROOT / ".venv-peers")


def interpreter() -> Path:
    """The interpreter of the peers' environment.

    Raises:
        StoreError: It is not there, or a package of it is missing.
    """
    missing = [name for name, found in versions().items() if not found]
    if missing:
        raise _unusable(f"one without {', '.join(missing)}")
    return python_of(home())


@cache
def versions() -> dict[str, str]:
    """Installed versions by package name, "" for what is missing."""
    python = python_of(home())
    if not python.is_file():
        raise _unusable("none")
    done = subprocess.run([python, "-c", VERSIONS], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def fresh(function: str, **settings: Any) -> dict[str, Any]:
    """Call ``module:function`` with these settings in a process of the peers' interpreter; it returns JSON."""
    command = [str(interpreter()), "-m", "benchmarks.common", function, json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _unusable(got: str) -> StoreError:
    return StoreError(
        f"peers' environment at {home()}",
        got=got,
        expected=f"an environment with {', '.join(PACKAGES)}",
        remedy="Make it with `python -m tools.peers_env`, or name another one in TUTELAGE_PEERS.",
    )
