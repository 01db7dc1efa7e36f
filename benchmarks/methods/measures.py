"""What a student is worth on the test problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.core.record import Record
from tutelage.core.workspace import Workspace
from tutelage.data.collate import Collate
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.ask import Ask
from tutelage.evaluation.evaluate import evaluate
from tutelage.models.causal import Causal
from tutelage.signals.grades import Grade, find

from .sizes import Sizes

SEED = 7  # of the samples: the same draws for every student
Put = Callable[[Record], Record]


def pass_at(num: int, right: int, k: int) -> float:
    """The chance that one of k answers is right, unbiased, from ``num`` of which ``right`` are (arXiv:2107.03374)."""
    if not 1 <= k <= num:
        raise ValueError(f"pass@{k} of {num} answers: expected 1 <= k <= {num}")
    return 1.0 - math.comb(num - right, k) / math.comb(num, k)


def answers(model: Causal, rows: Sequence[Record], sizes: Sizes, *, times: int, temperature: float) -> list[Record]:
    """Graded answers."""
    ws = Workspace(Path("."), SEED)
    ws.models["student"] = model
    ask = Ask("student", times=times, max_tokens=sizes.max_tokens, temperature=temperature, batch_size=128)
    return list(run_steps((ask, Grade(find("task"))), rows, ws))


def measured(student: Causal, teacher: Causal, rows: Sequence[Record], sizes: Sizes, put: Put | None) -> dict[str, Any]:
    """All figures: accuracy by item, pass@k, KL both ways on the data's answers and on its own, calibration, length.

    Args:
        student: Who is measured.
        teacher: The reference.
        rows: Test problems with the data's answers, families in turns.
        sizes: How much.
        put: How the student's prompts are put; None as they are.
    """
    asked = [put(r) for r in rows] if put else list(rows)
    greedy = answers(student, asked, sizes, times=1, temperature=0.0)
    some = len({r.fields["family"] for r in rows}) * sizes.scored
    drawn = answers(student, asked[:some], sizes, times=sizes.samples, temperature=1.0)
    right = [int(r.notes["right"] == 1.0) for r in greedy]
    each = [drawn[i : i + sizes.samples] for i in range(0, len(drawn), sizes.samples)]
    passed = [sum(r.notes["right"] == 1.0 for r in group) for group in each]
    collate = Collate(student.tokenizer, 512)
    own = [
        replace(rows[i], pieces=(*rows[i].without_answer().pieces, group[0].pieces[-1])) for i, group in enumerate(each)
    ]
    how = {"batch_size": 64, "num_samples": 0, "asked": put}
    on_data = evaluate({"student": student}, teacher, rows, collate, **how)["student"]
    on_own = evaluate({"student": student}, teacher, own, collate, **how)["student"]
    families = sorted({r.fields["family"] for r in rows})
    return {
        "right": "".join(map(str, right)),
        "accuracy": _mean(right),
        **{
            f"accuracy {f}": _mean([x for x, r in zip(right, rows, strict=True) if r.fields["family"] == f])
            for f in families
        },
        "pass@1": _mean([pass_at(sizes.samples, n, 1) for n in passed]),
        f"pass@{sizes.samples}": _mean([pass_at(sizes.samples, n, sizes.samples) for n in passed]),
        "forward KL": on_data["fidelity"]["kl"],
        "reverse KL": on_data["fidelity"]["reverse_kl"],
        "own reverse KL": on_own["fidelity"]["reverse_kl"],
        "NLL": on_data["nll"],
        "ECE": on_data["calibration"]["ece"],
        "length": _mean([len(r.pieces[-1].ids or ()) for r in greedy]),
        "cut": _mean([r.pieces[-1].stop == "length" for r in greedy]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
