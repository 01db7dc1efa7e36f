"""Move what a large model knows into a small one.

``run`` runs a RunFile, ``plan`` says what it will cost, ``evaluate``, ``compare`` and ``report`` say what came out.
Everything loads on first use, so importing the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.errors import TutelageError
    from .evaluation.compare import compare
    from .evaluation.report import report
    from .models.load import load
    from .running.api import Finished, evaluate, run
    from .running.plan import plan
    from .running.runfile import RunFile

try:
    __version__ = version("tutelage")
except PackageNotFoundError:
    __version__ = "0.0.0"

_HOMES = {
    "Finished": "running.api",
    "RunFile": "running.runfile",
    "TutelageError": "core.errors",
    "compare": "evaluation.compare",
    "evaluate": "running.api",
    "load": "models.load",
    "plan": "running.plan",
    "report": "evaluation.report",
    "run": "running.api",
}

__all__ = ["Finished", "RunFile", "TutelageError", "compare", "evaluate", "load", "plan", "report", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
    return getattr(import_module(f"tutelage.{_HOMES[name]}"), name)
