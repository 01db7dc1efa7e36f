"""Systems: chains of steps that turn prompts into answers, measured with all that they cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.ledger import Ledger
from ..core.recipe import Evaluate
from ..core.record import Record
from ..core.workspace import Workspace
from ..data.engines import Engine
from ..data.store import RowStore, generate, row_key
from . import samples
from .evaluate import plain

BATCH = 32


def measure_systems(
    stage: Evaluate,
    prompts: Sequence[Record],
    ws: Workspace,
    folder: Path,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Run each system of a stage over the prompts and measure what comes out.

    Rows are kept as they are made, and each system has a ledger of its own, kept with them, so a run that goes on
    repeats and loses nothing. The answers that the prompts came with are taken away first, and are the references.

    Args:
        stage: Names the systems and their metrics.
        prompts: What they are asked.
        ws: The workspace; its ledger is charged with everything.
        folder: Rows go to ``<folder>/<stage>-<system>``.
        engine: Where the chains run; this process by default.

    Returns:
        For each system ``num_prompts``, ``num_rows`` (what came out of the chain), ``text`` (figures of the answers),
        ``cost`` (calls, tokens, seconds and money by account, dropped samples included, and their ``total``), and what
        each metric gives, by its name.
    """
    return {name: _measured(stage, name, prompts, ws, folder, engine) for name in stage.systems}


def _measured(
    stage: Evaluate,
    name: str,
    prompts: Sequence[Record],
    ws: Workspace,
    folder: Path,
    engine: Engine | None,
) -> dict[str, Any]:
    steps, at = stage.systems[name], folder / f"{stage.name}-{name}"
    own = replace(ws.within(*ws.path, name), ledger=Ledger())
    asked = [_asked(record) for record in prompts]
    store, file = RowStore(at, row_key(steps, asked, own, BATCH)), at / "ledger.json"
    if file.exists():
        own.ledger.load_state_dict(json.loads(file.read_text(encoding="utf-8")))
    for _ in generate(steps, asked, own, store, BATCH, engine):
        file.write_text(json.dumps(own.ledger.state_dict()), encoding="utf-8")
    rows = list(store.records())
    costs = own.ledger.state_dict()
    for key, account in costs.items():
        ws.ledger.add(*key.split("/", 1), **account)
    return plain({
        "num_prompts": len(prompts), "num_rows": len(rows), "text": _text(rows), "cost": _with_total(costs),
        **{metric: measure(rows) for metric, measure in stage.metrics.items()},
    })  # fmt: skip


def _asked(record: Record) -> Record:
    """The prompt alone; the answer that it came with is its reference."""
    kept = {"reference": samples.reference_of(record), **record.fields}
    return replace(record.without_answer(), fields=kept)


def _text(rows: Sequence[Record]) -> dict[str, Any]:
    answers = []
    for row in rows:
        said = list(row.trained())
        ids = tuple(i for piece in said for i in piece.ids or ())
        answers.append(samples.Answer("".join(p.content for p in said), ids, said[-1].stop if said else ""))
    return samples.figures(answers, [samples.reference_of(row) for row in rows])


def _with_total(costs: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    total = {key: sum(a[key] for a in costs.values()) for key in ("calls", "tokens", "seconds", "money")}
    return {**costs, "total": total}
