"""What a stage put into a slot, kept in the run's folder and fetched from there, so that a run that goes on has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..models.export import export
from ..models.load import load
from .fit import FILE, Fitted


def keep(made: Any, folder: Path) -> None:
    """Write a model, or a fit, into a folder."""
    if isinstance(made, Fitted):
        made.save(folder)
    else:
        export(made, folder, card={"objective": "none: changed, not trained"})


def fetch(folder: Path, device: Any = "cpu") -> Any:
    """Read what ``keep`` wrote."""
    return Fitted.load(folder).to(device) if (folder / FILE).exists() else load(str(folder), device=device)
