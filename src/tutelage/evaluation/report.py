"""The report: one self-contained page of a run, readable without network, on a phone, in light and dark.

Every file of the run's folder may be missing; the page shows what there is. The files are a contract:

``run.json``
    ``{name, recipe, recipe_hash, seed, commit, command, versions: {package: version}, notes: [text], started,
    facts: {slot: {source, weights_hash, tokenizer_hash, licence, ...}}}``.
``run.toml``
    The resolved run, as it can be run again.
``metrics.jsonl``
    A line an optimiser step: ``{stage, step, time, loss, kl?, learning_rate, grad_norm, tokens_per_second, tokens}``,
    the mean of each loss term under its name, and where they were made ``lengths`` (of the round's answers, in tokens)
    and ``warnings`` (texts). ``step`` counts within the stage or over all of them; where a resumed run repeats a step
    the later line stands.
``evaluation.json``
    What ``evaluate`` returns, several merged by ``merge``: ::

        held_out  {hash, num_records, num_positions, lengths: [int]}      a record's trained part, in tokens
        teacher   {calibration, perplexity, nll, cost, text}
        NAME      one for each evaluated student; ``before`` and ``after`` are the two that the headline compares:
            fidelity     {kl, reverse_kl, jensen, total_variation, top1, top5, student_entropy, teacher_entropy,
                          num_positions}                                      means over positions; nats and shares
            by_position  [{label, count, kl, reverse_kl, top1, top5, student_nll, teacher_nll}]
            by_class     the same, label a token class
            loyalty      {label, probability, on_right, on_wrong, teacher_accuracy, student_accuracy, consistency}
            calibration  {ece, brier, bins: [{low, high, count, confidence, accuracy}]}
            perplexity, nll
            records      {ids: [], count: [], kl: [], top1: [], student_nll: [] ...}    columns; for ``compare``
            cost         {num_parameters, num_bytes, predict_tokens_per_second, sample_tokens_per_second,
                          peak_memory_bytes}
            text         {lengths: [int], length: {num, mean, median, p95, max}, cut_share, distinct_2, self_bleu,
                          repetition_share, num_graded?, numeric_share?, exact_share?, loyalty?: {num, label, on_right,
                          on_wrong}}
        samples   [{id, prompt, reference, teacher: {text, stop, num_tokens},
                    systems: {NAME: {text, stop, num_tokens, tokens: [TOKEN], along_teacher: [TOKEN]}}}]
                  TOKEN = {text, kl, top: {student: [[text, probability] x 3], teacher: [...]}}
        systems   {STAGE: {NAME: {num_prompts, num_rows, text, cost: {"slot/deed": {...}, total: {...}}, METRIC: ...}}}
                  what an Evaluate stage with systems of its own found (``measure_systems``)
        ledger    {"slot/deed": {calls, tokens, seconds, money}}

    A number that does not exist is null.
"""

from __future__ import annotations

import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from .. import evaluation as package
from . import view
from .run_folder import RunFolder, read_run


def report(run: Path) -> Path:
    """Write ``report.html`` into a run's folder and return its path; an older one is replaced in one move.

    Raises:
        StoreError: The folder holds no run.
    """
    run = Path(run)
    html = page(read_run(run))
    target = run / "report.html"
    draft = run / f".report-{os.getpid()}.html"
    try:
        draft.write_text(html, encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def page(run: RunFolder) -> str:
    """The page as text."""
    # imported here: everything else of the package works without the two
    from jinja2 import ChainableUndefined, Environment
    from plotly.offline import get_plotlyjs

    resources = files(package)
    text = {
        name: (resources / name).read_text(encoding="utf-8") for name in ("report.html.j2", "report.css", "report.js")
    }
    data = embedded(view.plots(run))
    # chainable: any key of a run's files may be missing, and is then left out of the page
    template = Environment(autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(text["report.html.j2"]).render(
        run=run,
        info=run.info,
        evaluation=run.evaluation,
        summary=view.summary(run),
        cards=view.cards(run.evaluation),
        figures=view.table(view.FIGURES, run.evaluation),
        costs=view.table(view.COSTS, run.evaluation),
        chains=view.table(view.SYSTEMS, view.chains(run.evaluation)),
        traces=view.traces(run.evaluation),
        ledger=view.ledger(run.evaluation),
        samples=view.samples(run.evaluation),
        warnings=view.warnings(run),
        edges=view.KL_EDGES,
        main=view.main_of(view.systems_of(run.evaluation)),
        facts=_facts(run.info),
        has=_has(run),
        data=data,
        css=text["report.css"],
        js=text["report.js"],
        plotly=get_plotlyjs(),
        # scripts run only with this word; it depends on all that is shown, so text in the page cannot know it
        nonce=hashlib.sha256((data + json.dumps(run.evaluation, default=str) + str(run.info)).encode()).hexdigest()[
            :32
        ],
    )


def embedded(value: Any) -> str:
    """JSON that may stand inside a ``<script>``: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _facts(info: dict[str, Any]) -> list[dict[str, Any]]:
    """Facts of each model slot as rows of text."""
    facts = info.get("facts")
    slots = facts.items() if isinstance(facts, dict) else ()
    return [
        {
            "slot": slot,
            "rows": [(k.replace("_", " "), _text(v)) for k, v in values.items() if v not in (None, "", [], {})],
        }
        for slot, values in slots
        if isinstance(values, dict)
    ]


def _text(value: Any) -> str:
    return str(value) if isinstance(value, (str, int, float)) else json.dumps(value, default=str)


def _has(run: RunFolder) -> dict[str, bool]:
    """Which plots have something to show."""
    data = view.plots(run)
    series = data["training"]["series"]
    return {
        "loss": "loss" in series,
        "kl": "kl" in series,
        "more": any(name in series for name in ("learning_rate", "grad_norm", "tokens_per_second")),
        "position": any(data["position"].values()),
        "class": any(data["class"].values()),
        "bins": any(data["bins"].values()),
        "lengths": any(data["lengths"].values()),
    }
