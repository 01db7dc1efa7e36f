"""On-policy distillation of the real pair as its user runs it: ours beside TRL's trainer.

Batch 4, 64 new tokens of GSM8K chat prompts, reverse KL, AdamW, no checkpointing, generation included. Each arm runs in
a fresh process of the peers' environment. TRL runs as its anchor was measured (bfloat16 autocast) and in float32, which
is faster where the processor has no bfloat16 products. Before its first update TRL's process computes our loss as well,
of the same weights on the answers that TRL wrote.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import torch
from torch import Tensor

from tutelage.core import node
from tutelage.core.batch import Batch, Units, View
from tutelage.core.context import Context
from tutelage.models.causal import Causal
from tutelage.signals.divergences import kl_reverse
from tutelage.signals.match import Match

from . import follow, peers
from .common import Result, highest, start_peak
from .head import Says
from .pair import LAYERS, pair, problems

ROWS, TOKENS, STEPS = 4, 64, 6


def ours(steps: int) -> dict[str, Any]:
    """A run of the recipe ``opd``."""
    return follow.ours("opd", {"max_tokens": TOKENS}, {"steps": steps, "batch_size": ROWS})


def trl(steps: int, bf16: bool) -> dict[str, Any]:
    """TRL's ``DistillationTrainer`` with its defaults but for what the setting names."""
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer  # pyright: ignore[reportMissingImports]

    teacher, student = pair("cpu")
    rows = [{"prompt": [{"role": "user", "content": r.pieces[0].content}]} for r in problems(64)]
    watch, taken = follow.clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            model=student.inner.float(),
            teacher_model=teacher.inner,
            args=DistillationConfig(
                output_dir=folder, per_device_train_batch_size=ROWS, max_completion_length=TOKENS, beta=1.0, bf16=bf16,
                max_steps=steps, **follow.PLAIN,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=student.tokenizer,
            callbacks=[watch],
        )  # fmt: skip
        compared, extra = _compare(trainer, teacher, student)
        start_peak("cpu")
        trainer.train()
        peak = highest("cpu")
    taken[0] -= extra[0]
    return {"seconds": taken, "tokens": [ROWS * TOKENS] * len(taken), "peak": peak, **compared}


def _compare(trainer: Any, teacher: Causal, student: Causal) -> tuple[dict[str, float], list[float]]:
    """Has the trainer's first loss computed by us too; the losses, and the seconds that this took."""
    theirs, losses, extra = trainer._compute_loss, dict[str, float](), [0.0]

    def both(model: Any, inputs: dict[str, Tensor], num_items: Any) -> Any:
        found = theirs(model, inputs, num_items)
        if not losses:
            start = time.perf_counter()
            losses.update(loss=float(found[0].detach()), ours_on_it=_our_loss(inputs, teacher, student))
            extra[0] = time.perf_counter() - start
        return found

    trainer._compute_loss = both
    return losses, extra


@torch.no_grad()
def _our_loss(inputs: dict[str, Tensor], teacher: Causal, student: Causal) -> float:
    """Reverse KL at each answer's tokens, a mean: of the same ids, each row without its padding."""
    total, count = 0.0, 0
    for prompt, answer, real, kept in zip(
        *(inputs[name] for name in ("prompt_ids", "completion_ids", "prompt_mask", "completion_mask")), strict=True
    ):
        row = torch.cat([prompt[real.bool()], answer[kept.bool()]])
        num = int(kept.sum())
        view = View({"input_ids": row[None]}, torch.arange(len(row) - num - 1, len(row) - 1))
        said = {m: m.predict(view, frozenset({"next"}))["next"] for m in (teacher, student)}
        units = Units(torch.zeros(num, dtype=torch.long), torch.arange(num))
        voices = {"student": Says("student", said[student]), "teacher": Says("teacher", said[teacher])}
        ctx = Context(Batch((), {"tokens": units}, {}), voices, {}, frozenset())
        total += float(node.readouts(ctx, "tokens", [Match(kl_reverse)])[0].sum())
        count += num
    return total / count


def run(device: str, quick: bool) -> Result:
    """The table."""
    steps = 2 if quick else STEPS
    arms: dict[str, tuple[str, dict[str, Any]]] = {
        "ours, float32": ("ours", {}),
        "TRL, float32": ("trl", {"bf16": False}),
        "TRL, bfloat16 autocast": ("trl", {"bf16": True}),
    }
    got = {n: peers.fresh(f"benchmarks.on_policy:{f}", steps=steps, **how) for n, (f, how) in arms.items()}
    rows: list[tuple[Any, ...]] = []
    for name, found in got.items():
        seconds = statistics.median(found["seconds"][1:])
        speed = statistics.median(t / s for t, s in zip(found["tokens"][1:], found["seconds"][1:], strict=True))
        rows.append((name, seconds, speed, found["peak"] / 1e9, found["loss"], found.get("ours_on_it")))
    mine = rows[0]
    compared = [(*row, mine[2] / row[2], mine[3] / row[3]) for row in rows]
    return Result(
        "on_policy",
        f"Whole steps, generation included: batch {ROWS}, {TOKENS} new tokens, reverse KL, AdamW; median of "
        f"{steps - 1} after 1. The last columns are ours against the row.",
        {"teacher": "SmolLM2-135M-Instruct, float32", "student": f"its cut of {LAYERS} layers", "seed": 0}
        | {"environment": peers.versions()},
        ("arm", "seconds a step", "generated tokens/s", "peak GB", "first loss", "our loss of the same answers",
         "our speed, times", "our peak, times"),
        tuple(compared),
    )  # fmt: skip
