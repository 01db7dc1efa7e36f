"""Off-policy distillation of the real pair on GSM8K answers: ours beside TRL's GKDTrainer and a plain loop.

Forward KL at the answers' positions, batch 8, AdamW, float32, rows up to 512 tokens. Each arm runs in a fresh process
of the peers' environment. The plain loop pads, runs both heads at every position of the grid, and masks.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import torch
from torch.nn.functional import kl_div

from tutelage.data.render import render
from tutelage.training import optim
from tutelage.training.settings import TrainSettings

from . import follow, peers
from .common import Result, highest, start_peak
from .pair import LAYERS, pair, problems

ROWS, STEPS = 8, 5


def ours(steps: int) -> dict[str, Any]:
    """A run of the recipe ``forward_kl``."""
    return follow.ours("forward_kl", {}, {"steps": steps, "batch_size": ROWS, "micro_batch_size": ROWS})


def trl(steps: int) -> dict[str, Any]:
    """The experimental GKDTrainer, never on-policy (``lmbda=0``), forward KL (``beta=0``)."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer  # pyright: ignore[reportMissingImports]

    teacher, student = pair("cpu")
    roles = ("user", "assistant")
    chats = [
        [{"role": r, "content": p.content} for r, p in zip(roles, row.pieces, strict=True)] for row in problems(64)
    ]
    watch, taken = follow.clock()
    tokens: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = GKDTrainer(
            model=student.inner.float(), teacher_model=teacher.inner, processing_class=student.tokenizer,
            args=GKDConfig(
                output_dir=folder, lmbda=0.0, beta=0.0, per_device_train_batch_size=ROWS, max_steps=steps, bf16=False,
                max_length=512, **follow.PLAIN,
            ),
            train_dataset=Dataset.from_list([{"messages": chat} for chat in chats]), callbacks=[watch],
        )  # fmt: skip
        theirs = trainer.compute_loss

        def counted(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            tokens.append(int((inputs["labels"] != -100).sum()))
            return theirs(model, inputs, *args, **kwargs)

        trainer.compute_loss = counted
        start_peak("cpu")
        trainer.train()
    return {"seconds": taken, "tokens": tokens, "peak": highest("cpu")}


def plain(steps: int) -> dict[str, Any]:
    """A loop as one writes it first."""
    teacher, student = pair("cpu")
    student.model.requires_grad_(True).train()
    optimizer = optim.adamw([("student", student.model)], TrainSettings.model_validate({"learning_rate": 1e-5}))
    rows = [render(record, student.tokenizer) for record in problems(64)]
    taken, tokens = [], []
    start_peak("cpu")
    for step in range(steps):
        start = time.perf_counter()
        ids, mask = _padded(rows[step * ROWS : (step + 1) * ROWS])
        with torch.no_grad():
            log_p = teacher.inner(input_ids=ids).logits.log_softmax(-1)
        log_q = student.inner(input_ids=ids).logits.log_softmax(-1)
        value = kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)[mask].mean()
        value.backward()
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        taken.append(time.perf_counter() - start)
        tokens.append(int(mask.sum()))
    return {"seconds": taken, "tokens": tokens, "peak": highest("cpu")}


def _padded(rows: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids Int[B T], padded on the right, and where the next token trains: Bool[B T]."""
    flat = [[(token, span.trains) for span in row for token in span.ids] for row in rows]
    ids = torch.zeros(len(flat), max(map(len, flat)), dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for place, row in enumerate(flat):
        ids[place, : len(row)] = torch.tensor([token for token, _ in row])
        mask[place, : len(row) - 1] = torch.tensor([trains for _, trains in row[1:]])
    return ids, mask


def run(device: str, quick: bool) -> Result:
    """The table."""
    steps = 2 if quick else STEPS
    rows: list[tuple[Any, ...]] = []
    for name, arm in {"ours": "ours", "TRL GKDTrainer, lmbda 0": "trl", "a plain loop": "plain"}.items():
        found = peers.fresh(f"benchmarks.off_policy:{arm}", steps=steps)
        speeds = [t / s for t, s in zip(found["tokens"][1:], found["seconds"][1:], strict=True)]
        rows.append((name, statistics.median(found["seconds"][1:]), statistics.median(speeds), found["peak"] / 1e9))
    compared = [(*row, rows[0][2] / row[2], rows[0][3] / row[3]) for row in rows]
    return Result(
        "off_policy",
        f"Whole steps: batch {ROWS}, forward KL at the answers' positions, AdamW, float32; median of {steps - 1} after "
        "1. The last columns are ours against the row.",
        {"teacher": "SmolLM2-135M-Instruct", "student": f"its cut of {LAYERS} layers", "seed": 0}
        | {"environment": peers.versions()},
        ("arm", "seconds a step", "trained positions/s", "peak GB", "our speed, times", "our peak, times"),
        tuple(compared),
    )
