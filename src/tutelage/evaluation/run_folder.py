"""A run's folder as the report and the comparison read it: whatever is missing or torn is said, never fatal."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import StoreError

# Keys of a metrics line that are not loss terms.
PLAIN = frozenset(
    (
        "stage",
        "step",
        "time",
        "loss",
        "kl",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "tokens",
        "lengths",
        "warnings",
    )
)
MAX_POINTS = 1500  # of a curve: more cannot be seen and makes the page heavy


@dataclass(frozen=True)
class RunFolder:
    """What a run has written so far.

    Args:
        path: Its folder.
        info: ``run.json``.
        toml: The resolved run, as text.
        metrics: The lines of ``metrics.jsonl`` in order, each with ``x``, its step counted over all stages.
        evaluation: ``evaluation.json``.
        problems: What could not be read, for the page's warnings.
    """

    path: Path
    info: dict[str, Any] = field(default_factory=dict)
    toml: str = ""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The run's name, its folder's if it wrote none."""
        return str(self.info.get("name") or self.path.resolve().name)


def read_run(path: Path) -> RunFolder:
    """Read a run's folder.

    Raises:
        StoreError: There is no such folder, or none of a run's files is in it.
    """
    files = ("run.json", "run.toml", "metrics.jsonl", "evaluation.json")
    if not any((path / name).is_file() for name in files):
        raise StoreError(
            f"run folder {path}",
            got="no such folder" if not path.is_dir() else "a folder without a run in it",
            expected=f"one of {', '.join(files)}",
            remedy="Give the folder of a run, for example runs/NAME.",
        )
    problems: list[str] = []
    info = _json(path / "run.json", problems)
    evaluation = _json(path / "evaluation.json", problems)
    metrics = _metrics(path / "metrics.jsonl", problems)
    toml = path / "run.toml"
    text = toml.read_text(encoding="utf-8", errors="replace") if toml.is_file() else ""
    return RunFolder(path, info, text, metrics, evaluation, tuple(problems))


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name} holds a {type(value).__name__} where a table is expected")
        return {}
    return value


def _metrics(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    torn: list[int] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            row["stage"], row["step"] = str(row.get("stage", "")), int(row["step"])
            rows.append(row)
        except (ValueError, KeyError, TypeError, AttributeError):
            torn.append(number)
    if torn:
        problems.append(f"metrics.jsonl: {len(torn)} lines could not be read, first line {torn[0]}")
    return _laid_out(rows)


def _laid_out(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each line its ``x``; where a resumed run wrote a step again, the later line stands."""
    kept: list[dict[str, Any]] = []
    offset = 0
    for row in rows:
        while kept and kept[-1]["stage"] == row["stage"] and kept[-1]["step"] >= row["step"]:
            kept.pop()
        if kept and kept[-1]["stage"] != row["stage"]:
            # stages count their own steps; a count that goes on over stages needs no offset
            offset = (
                kept[-1]["x"] + 1 - row["step"] if row["step"] <= kept[-1]["step"] else kept[-1]["x"] - kept[-1]["step"]
            )
        kept.append({**row, "x": row["step"] + offset})
    return kept


def curves(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """What the plots of training need: ``series`` by name as ``{x, y}``, and ``stages`` as ``{name, start, end}``.

    Long series are thinned by averaging equal stretches, so no peak is invented and means stay.
    """
    names = dict.fromkeys(
        k for row in metrics for k, v in row.items() if _is_number(v) and k not in ("step", "x", "time")
    )
    series = {}
    for name in names:
        points = [(row["x"], float(row[name])) for row in metrics if _is_number(row.get(name))]
        step = -(-len(points) // MAX_POINTS)
        groups = [points[i : i + step] for i in range(0, len(points), step)]
        series[name] = {
            "x": [g[len(g) // 2][0] for g in groups],
            "y": [sum(y for _, y in g) / len(g) for g in groups],
        }
    stages: list[dict[str, Any]] = []
    for row in metrics:
        if not stages or stages[-1]["name"] != row["stage"]:
            stages.append({"name": row["stage"], "start": row["x"], "end": row["x"]})
        stages[-1]["end"] = row["x"]
    terms = [n for n in names if n not in PLAIN]
    return {"series": series, "stages": stages, "terms": terms}


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and value == value
        and abs(value) != float("inf")
    )
