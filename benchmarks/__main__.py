"""`python -m benchmarks NAME ...`: run benchmarks, print their tables, write `benchmarks/results/NAME-DEVICE.json`."""

from __future__ import annotations

import argparse
import importlib
import sys

import torch

from tutelage.core.errors import StoreError

from .common import keep

NAMES = (
    "loss_core", "retained", "invariance", "bf16_gradient", "top_k_clamp", "step", "sampling", "joining", "rollouts",
    "on_policy", "off_policy", "selection", "conformance", "curves", "cache", "cached_step", "plan",
)  # fmt: skip


def main() -> int:
    """Run what is asked; `all` for every one."""
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure speed, memory and exactness.")
    parser.add_argument("names", nargs="+", choices=("all", *NAMES), metavar="NAME", help=f"all, {', '.join(NAMES)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all runs; writes nothing")
    asked = parser.parse_args()
    names = NAMES if "all" in asked.names else tuple(dict.fromkeys(asked.names))
    missing = 0
    for name in names:
        module = importlib.import_module(f"benchmarks.{name}")
        try:
            keep(module.run(asked.device, asked.quick), asked.device, write=not asked.quick)
        except StoreError as error:  # the peers' environment is not there: the others can be run without it
            missing += 1
            print(f"{name} was not run. {error}", file=sys.stderr)
    return 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
