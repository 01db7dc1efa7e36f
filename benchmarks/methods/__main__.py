"""`python -m benchmarks.methods`: all recipes on one task, side by side; started again, it goes on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tutelage.core import catalog

from ..common import ROOT, keep
from . import ladder, plan
from .sizes import FULL, QUICK
from .summary import summary


def main() -> int:
    """Run what is missing, then print and write the result; 1 if a recipe failed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser("python -m benchmarks.methods", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="RECIPE", help="run only these; the result holds all")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--budget-minutes", type=float, default=180.0, help="begin nothing after so long")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "methods", help="where models and results are kept"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all runs; writes nothing")
    asked = parser.parse_args()
    if foreign := set(asked.only) - set(catalog.names()):
        parser.error(f"{', '.join(sorted(foreign))}: expected recipes, of {', '.join(catalog.names())}")
    if asked.seeds < 1 or asked.workers < 1:
        parser.error("expected at least one seed and one worker")
    sizes = QUICK if asked.quick else FULL
    folder = ladder.prepared(asked.work, sizes, asked.seeds)
    wrong: list[str] = []
    stopped = False
    try:
        chosen = plan.chains(folder, sizes, asked.seeds, asked.only)
        wrong = plan.run(chosen, sizes, workers=asked.workers, minutes=asked.budget_minutes, say=print)
    except KeyboardInterrupt:
        stopped = True
        print("Stopped. What was measured is kept; the same command goes on.", file=sys.stderr)
    keep(summary(plan.chains(folder, sizes, asked.seeds), sizes, asked.seeds), "cpu", write=not asked.quick)
    for text in wrong:
        print(f"failed: {text}", file=sys.stderr)
    return 130 if stopped else int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
