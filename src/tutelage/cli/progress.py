"""Live progress of a run in the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

SHOWN = ("loss", "kl", "jensen", "labels", "held_out_kl")


class Live:
    """A bar for each stage: step, loss, KL, tokens a second, time left; on a plain stream, a line now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            SpinnerColumn(), TextColumn("[bold]{task.description:<14}"), BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"), TextColumn("left"), TimeRemainingColumn(compact=True),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.tasks: dict[str, TaskID] = {}
        self.last: dict[str, int] = {}

    def __enter__(self) -> Live:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def stage(self, name: str, num_steps: int, done: int) -> None:
        """A stage starts, or goes on."""
        self.tasks[name] = self.bars.add_task(name, total=num_steps, completed=done, figures="")
        self.last[name] = num_steps
        if not self.console.is_terminal:
            self.console.print(f"{name}: {num_steps} steps" + (f", {done} done" if done else ""))

    def step(self, metrics: Mapping[str, Any]) -> None:
        """A step was taken."""
        name, step = metrics["stage"], int(metrics["step"])
        figures = [f"{k} {metrics[k]:.4g}" for k in SHOWN if isinstance(metrics.get(k), float)]
        if "loss" in metrics and len(figures) > 1 and figures[0].split()[1] == figures[1].split()[1]:
            figures = figures[1:]
        if isinstance(metrics.get("tokens_per_second"), float):
            figures.append(f"{metrics['tokens_per_second']:.0f} tokens/s")
        self.bars.update(self.tasks[name], completed=step, figures="  ".join(figures))
        every = max(1, self.last[name] // 10)
        if not self.console.is_terminal and figures and (step % every == 0 or step == 1):
            self.console.print(f"{name} {step}/{self.last[name]}  " + "  ".join(figures))

    def note(self, text: str) -> None:
        """Something to be said once."""
        self.console.print(Text(f"note: {text}", style="yellow"))


def summary(console: Console, folder: Path, command: str) -> None:
    """The end of a run: before and after, answers side by side, and where everything is."""
    file = folder / "evaluation.json"
    result = json.loads(file.read_text()) if file.exists() else {}
    if "before" in result and "after" in result:
        console.print(figures_table(result))
        for sample in result.get("samples", [])[:3]:
            console.print(_sample(sample))
    places = Table.grid(padding=(0, 2))
    for noun, path in (
        ("student", "student"),
        ("report", "report.html"),
        ("log", "metrics.jsonl"),
        ("resolved run", "run.toml"),
    ):
        places.add_row(noun, Text(str(folder / path), style="bold"))
    places.add_row("again", Text(command))
    console.print(Panel(places, title="done", title_align="left"))


def figures_table(result: Mapping[str, Any]) -> Table:
    """Before and after on held-out records, beside the teacher."""
    held = result["held_out"]
    table = Table(
        title=f"{held['num_records']} held-out records, {held['num_positions']} positions", title_justify="left"
    )
    for name in ("", "before", "after", "teacher"):
        table.add_column(name, justify="left" if not name else "right")
    for label, read in ROWS:
        cells = [cell(read, result.get(name)) for name in ("before", "after", "teacher")]
        if any(c != "" for c in cells):
            table.add_row(label, *cells)
    return table


def _read(*path: str, scale: float = 1.0, form: str = "{:.3f}") -> Any:
    def read(system: Mapping[str, Any]) -> str:
        value: Any = system
        for part in path:
            value = value[part]
        return form.format(value * scale)

    return read


ROWS = (
    ("KL to the teacher (nats)", _read("fidelity", "kl")),
    ("reverse KL (nats)", _read("fidelity", "reverse_kl")),
    ("top-1 agreement", _read("fidelity", "top1")),
    ("agreement, teacher right", _read("loyalty", "on_right")),
    ("agreement, teacher wrong", _read("loyalty", "on_wrong")),
    ("probability loyalty", _read("loyalty", "probability")),
    ("perplexity on real text", _read("perplexity", form="{:.2f}")),
    ("calibration error", _read("calibration", "ece")),
    ("parameters (M)", _read("cost", "num_parameters", scale=1e-6, form="{:.1f}")),
    ("size (MB)", _read("cost", "num_bytes", scale=1e-6, form="{:.0f}")),
    ("written tokens/s", _read("cost", "sample_tokens_per_second", form="{:.0f}")),
)


def cell(read: Any, system: Mapping[str, Any] | None) -> str:
    """A figure as text; empty where it was not measured."""
    try:
        return read(system) if system else ""
    except (KeyError, TypeError):
        return ""


def _sample(sample: Mapping[str, Any]) -> Panel:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    answers = {"teacher": sample.get("teacher", {}), "student": sample.get("systems", {}).get("after", {})}
    grid.add_row(*(Text(name, style="bold") for name in answers))
    grid.add_row(*(Text(str(answer.get("text", "")), overflow="fold") for answer in answers.values()))
    return Panel(
        grid, title=Text(str(sample.get("prompt", sample.get("id", "")))[:100].replace("\n", " ")), title_align="left"
    )
