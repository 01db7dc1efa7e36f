"""Answers of uneven length: rows that wait take the places of those that ended, beside batch after batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tutelage.data.render import prompt_ids
from tutelage.models.causal import Causal
from tutelage.models.draw import Sampling
from tutelage.models.sample import Sample, sample

from .common import Result, fresh, seconds
from .pair import pair, problems

ROWS, PLACES, TOKENS, REPEATS = 64, 16, 96, 3
HOW = ("those that wait join", "batch after batch", "all at once")


def sentences(model: Causal) -> None:
    """A full stop ends an answer: lengths from a few tokens to all that are allowed."""
    ends = [i for token, i in model.tokenizer.get_vocab().items() if token.rstrip("ĊĠ").endswith(".")]
    model.inner.generation_config.eos_token_id = sorted({*ends, *model.stop_ids})


def writer(how: str, model: Causal, prompts: list[list[int]], places: int, tokens: int) -> Callable[[], list[Sample]]:
    """An arm's work."""
    settings, seeds = Sampling(tokens), list(range(len(prompts)))
    if how == HOW[0]:
        return lambda: sample(model, prompts, settings, seeds, places=places)
    size = places if how == HOW[1] else len(prompts)

    def work() -> list[Sample]:
        out: list[Sample] = []
        for first in range(0, len(prompts), size):
            out += sample(model, prompts[first : first + size], settings, seeds[first : first + size])
        return out

    return work


def arm(how: str, device: str, rows: int, places: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Lengths of the answers and the median time of a call."""
    teacher, _ = pair(device)
    prompts = [prompt_ids(r, teacher.tokenizer) for r in problems(rows)]
    sentences(teacher)
    work = writer(how, teacher, prompts, places, tokens)
    lengths = sorted(len(s.ids) for s in work())
    return {"lengths": lengths, "seconds": seconds(work, device, repeats=repeats, warm=0)}


def run(device: str, quick: bool) -> Result:
    """The table."""
    size: dict[str, Any] = (
        {"rows": 6, "places": 2, "tokens": 4, "repeats": 1}
        if quick
        else {"rows": ROWS, "places": PLACES, "tokens": TOKENS, "repeats": REPEATS}
    )
    rows = []
    for how in HOW:
        got = fresh("benchmarks.joining:arm", how=how, device=device, **size)
        lengths = got["lengths"]
        middle = lengths[len(lengths) // 2]
        rows.append((how, sum(lengths), lengths[0], middle, lengths[-1], got["seconds"], sum(lengths) / got["seconds"]))
    return Result(
        "joining",
        f"{size['rows']} answers, {size['places']} at once, each to its first full stop or {size['tokens']} tokens, "
        f"after GSM8K prompts; float32, temperature 1, median of {size['repeats']} after 1.",
        {"model": "SmolLM2-135M-Instruct", **size},
        ("arm", "tokens", "shortest", "median", "longest", "seconds", "tokens/s"),
        tuple(rows),
    )
