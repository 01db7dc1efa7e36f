"""Tables of plans, evaluations and comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..evaluation.compare import Difference
from ..running.plan import Plan
from .progress import ROWS, cell


def show_plan(console: Console, plan: Plan, *, as_json: bool) -> None:
    """Print a plan."""
    if as_json:
        print(json.dumps(plan.to_dict(), indent=1))
        return
    _amounts(console, "loads", {**plan.loads, **{f"data {k}": f"{n} rows" for k, n in plan.records.items()}})
    _amounts(console, "memory at the peak", _with_total(plan.memory))
    _amounts(console, "on disk", _with_total(plan.disk))
    for stage, took in plan.machines.items():
        _amounts(console, f"stage {stage}, on each GPU", _with_total(took["memory"]))
        step = f"{took['step_seconds']:.3g} s a step ({took['computing_seconds']:.3g} s computing, "
        step += f"{took['exchanging_seconds']:.3g} s exchanging), {took['positions_per_second']:,.0f} positions/s"
        console.print(Text(f"{'fits' if took['fits'] else 'does not fit'}; {step}", style="bold"))
    table = Table(title="stages", title_justify="left", box=None, pad_edge=False)
    for column in ("stage", "does", "steps", "tokens", "time"):
        table.add_column(column, justify="right" if column in ("steps", "tokens", "time") else "left")
    for stage in plan.stages:
        tokens = "" if stage.tokens is None else f"{stage.tokens:,}"
        table.add_row(stage.name, stage.does, str(stage.steps), tokens, duration(stage.seconds))
    if all(s.seconds is not None for s in plan.stages):
        table.add_row("all", "", "", "", duration(sum(s.seconds or 0 for s in plan.stages)), style="bold")
    console.print(table)
    for note in plan.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def show_evaluation(console: Console, result: Mapping[str, Any], names: Sequence[str], *, as_json: bool) -> None:
    """Print what was measured."""
    if as_json:
        print(json.dumps(result, indent=1))
        return
    held = result["held_out"]
    table = Table(title=f"{held['num_records']} records, {held['num_positions']} positions", title_justify="left")
    for column in ("", *names, "teacher"):
        table.add_column(escape(column), justify="right" if column else "left", overflow="fold")
    for label, read in ROWS:
        cells = [cell(read, result.get(name)) for name in (*names, "teacher")]
        if any(cells):
            table.add_row(label, *cells)
    for task in next(iter(result.get("harness", {}).values()), {}):
        for figure in result["harness"]["teacher"][task]:
            values = [result["harness"][name][task].get(figure) for name in (*names, "teacher")]
            table.add_row(escape(f"{task}: {figure}"), *("" if v is None else f"{v:.3f}" for v in values))
    console.print(table)


def show_comparison(console: Console, differences: Sequence[Difference], *, as_json: bool) -> None:
    """Print differences and verdicts."""
    if as_json:
        print(json.dumps([d.to_dict() for d in differences], indent=1))
        return
    table = Table()
    for column in ("metric", "baseline", "compared", "difference", "95 % interval", "verdict", "seeds"):
        table.add_column(column, overflow="fold")
    for d in differences:
        row = (
            d.metric,
            f"{escape(d.baseline)} {d.baseline_mean:.4f}",
            f"{escape(d.group)} {d.group_mean:.4f}",
            f"{d.difference:+.4f}",
            f"{d.low:+.4f} to {d.high:+.4f}",
            d.verdict,
            f"{d.num_seeds[0]} and {d.num_seeds[1]}",
        )
        table.add_row(*row, style={"better": "green", "worse": "red"}.get(d.verdict, ""))
    console.print(table)


def show_caches(console: Console, found: Mapping[str, Mapping[str, Any]], *, as_json: bool) -> None:
    """Print what caches hold and how true they are."""
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for slot, report in found.items():
        flat = {**report, **{f"fidelity, {k}": v for k, v in report.get("fidelity", {}).items()}}
        told = {k.replace("_", " "): v for k, v in flat.items() if isinstance(v, (str, int, float))}
        shown = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in told.items()}
        _amounts(console, escape(f"cache of {slot}"), shown)


def duration(seconds: float | None) -> str:
    """Time for people."""
    if seconds is None:
        return "not timed"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def amount(value: Any) -> str:
    """Bytes for people."""
    return f"{value / 1e6:,.0f} MB" if isinstance(value, int) else str(value)


def _with_total(parts: Mapping[str, int]) -> dict[str, int]:
    return {**parts, "total": sum(parts.values())}


def _amounts(console: Console, title: str, rows: Mapping[str, Any]) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right", overflow="fold")
    for name, value in rows.items():
        table.add_row(escape(name), escape(amount(value)), style="bold" if name == "total" else "")
    console.print(table)
    console.print()
