"""Sampling of the real student at temperature 1, batch 16, 48 tokens after GSM8K prompts: ours beside transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tutelage.data.render import prompt_ids
from tutelage.models.causal import Causal
from tutelage.models.draw import Sampling
from tutelage.models.sample import sample

from .common import Result, fresh, seconds
from .pair import pair, problems

ROWS, TOKENS, REPEATS = 16, 48, 3


def endless(student: Causal) -> None:
    """No token ends an answer, so that both arms write the same number."""
    for holder in (student.inner.generation_config, student.config, student.tokenizer):
        holder.eos_token_id = None


def ours(student: Causal, prompts: list[list[int]], tokens: int) -> Callable[[], int]:
    """Our sampler; it also gives each token's log-probability."""

    def work() -> int:
        return sum(len(s.ids) for s in sample(student, prompts, Sampling(tokens), list(range(len(prompts)))))

    return work


def theirs(student: Causal, prompts: list[list[int]], tokens: int) -> Callable[[], int]:
    """``generate`` with its dynamic cache, rows padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=student.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=student.device)

    def work() -> int:
        with torch.no_grad():
            out = student.inner.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=tokens, pad_token_id=0,
            )  # fmt: skip
        return out[:, width:].numel()

    return work


def arm(how: str, device: str, rows: int, tokens: int, repeats: int) -> dict[str, float]:
    """An arm: tokens written in a call, and the median time of one."""
    _, student = pair(device)
    prompts = [prompt_ids(r, student.tokenizer) for r in problems(rows)]
    endless(student)
    work = (ours if how == "ours" else theirs)(student, prompts, tokens)
    return {"tokens": work(), "seconds": seconds(work, device, repeats=repeats, warm=0)}


def run(device: str, quick: bool) -> Result:
    """The table."""
    size: dict[str, Any] = (
        {"rows": 2, "tokens": 4, "repeats": 1} if quick else {"rows": ROWS, "tokens": TOKENS, "repeats": REPEATS}
    )
    rows = []
    for how in ("ours", "transformers generate"):
        got = fresh("benchmarks.sampling:arm", how=how, device=device, **size)
        rows.append(
            (how, got["tokens"], got["seconds"], got["tokens"] / got["seconds"], "yes" if how == "ours" else "no")
        )
    return Result(
        "sampling",
        f"Prompts read and {size['tokens']} tokens written for each of {size['rows']} rows, float32, temperature 1, no "
        f"stop token; median of {size['repeats']} after 1.",
        {"student": "15 of 30 layers of SmolLM2-135M-Instruct, not refitted", **size},
        ("arm", "tokens", "seconds", "tokens/s", "gives log-probabilities"),
        tuple(rows),
    )
