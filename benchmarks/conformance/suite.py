"""Every check of one framework."""

from __future__ import annotations

import importlib
import math
from typing import Any

from . import head_checks, step_checks
from .adapters import NAMES
from .asked import Adapter
from .check import Check, run

CHECKS: tuple[Check, ...] = (*head_checks.CHECKS, *step_checks.CHECKS)


def adapter_of(name: str) -> Adapter:
    """A framework's adapter."""
    module = importlib.import_module(f"benchmarks.conformance.adapters.{NAMES[name]}")
    return next(adapter for adapter in module.ADAPTERS if adapter.name == name)


def measure(name: str, only: str = "") -> dict[str, Any]:
    """The outcomes of all checks whose names contain ``only``, and what stands behind them, as JSON holds them."""
    adapter = adapter_of(name)
    rows = []
    for check in (c for c in CHECKS if only in c.name):
        outcome = run(check, adapter)
        figure = "" if outcome.figure is None else outcome.figure if math.isfinite(outcome.figure) else "not finite"
        pains = ", ".join(map(str, check.pains))
        rows.append((check.name, pains, name, outcome.status, figure, check.bound, check.of, outcome.note))
    return {"rows": rows, "loss": adapter.loss_is, "step": adapter.step_is}
