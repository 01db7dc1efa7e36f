"""What a server's answers say, checked and as tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.batch import View
from ...core.errors import ServerError
from ...core.scores import Kept, log_rest
from ...models.draw import Sampling, drawn_from
from ...models.sample import Sample

Entries = list[dict[int, float]]
"""By position of a prompt, log-probabilities by id, the token's own first; the first position has none."""


def rows_of(view: View) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """The rows of a grid that units sit in, and for each unit its row and the position that it predicts.

    Rows are told apart by their positions, so it does not matter how they are padded or packed. A row ends with the
    last token that a unit predicts: what follows is not asked for.
    """
    ids = view.inputs["input_ids"].flatten().tolist()
    position = view.inputs["position_ids"].flatten().tolist()
    ends: dict[int, int] = {}
    places = []
    for at in view.at.tolist():
        start = at - position[at]
        ends[start] = max(ends.get(start, 0), position[at] + 2)
        places.append((start, position[at] + 1))
    number = {start: row for row, start in enumerate(ends)}
    return [ids[start : start + length] for start, length in ends.items()], [(number[s], t) for s, t in places]


def entries(answer: Any, ids: Sequence[int], where: str) -> Entries:
    """The log-probabilities of a prompt's positions.

    Raises:
        ServerError: The answer has another shape, or is of other tokens than were sent.
    """
    try:
        said = answer["choices"][0]["prompt_logprobs"]
        out: Entries = [{int(k): float(v["logprob"]) for k, v in (at or {}).items()} for at in said]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise ServerError(
            where,
            got=f"an answer without prompt_logprobs: {str(answer)[:200]}",
            expected="the log-probabilities of the prompt's tokens",
            remedy="Use a server that gives prompt_logprobs (vLLM does), or set top_k = 0 and use a recipe that needs "
            "its text alone (seqkd).",
        ) from None
    whole = len(out) == len(ids) and all(i in at for i, at in zip(ids[1:], out[1:], strict=True))
    if not whole or not all(math.isfinite(x) and x < 1e-3 for at in out for x in at.values()):
        raise ServerError(
            where,
            got=f"log-probabilities of {len(out)} positions that are not those of the {len(ids)} tokens sent",
            expected="a finite one for each token that was sent",
            remedy="The server reads ids in another way: check that it serves the model whose tokenizer is used here.",
        )
    return out


def kept(
    places: Sequence[tuple[int, int]], rows: Sequence[Entries], target: Sequence[int], num: int, size: int
) -> Kept:
    """The ``num`` most probable categories of each unit and its target, and exactly the mass of the rest.

    Where the target is among the most probable, one more category takes its column with the share that an even spread
    gives it; that changes no other number.

    Args:
        places: By unit, its row and the position that it predicts.
        rows: By row, what the server said.
        target: By unit, the token that is there.
        num: How many most probable ids were asked for.
        size: C, the categories in all; ids beyond it are dropped.
    """
    ids, log_probs = torch.zeros(len(places), num + 1, dtype=torch.long), torch.zeros(len(places), num + 1)
    for unit, ((row, at), token) in enumerate(zip(places, target, strict=True)):
        found = {i: x for i, x in rows[row][at].items() if i < size}
        best = sorted((i for i in found), key=lambda i: (-found[i], i))
        chosen = best[:num] if token in best[:num] else [*best[:num], token]
        values = [min(found[i], 0.0) for i in chosen]
        ids[unit], log_probs[unit] = _filled(chosen, values, num + 1, size)
    return Kept(ids, log_probs, size)


def _filled(ids: list[int], values: list[float], width: int, size: int) -> tuple[Tensor, Tensor]:
    """The columns of a unit, filled up with unseen ids that share evenly in the rest."""
    lacking = width - len(ids)
    if lacking:
        seen = set(ids)
        rest = float(log_rest(torch.tensor(values, dtype=torch.float64)))
        even = rest - math.log(max(1, size - len(ids)))
        ids = [*ids, *(i for i in range(width + len(ids)) if i not in seen)][:width]
        values = [*values, *[even] * lacking]
    return torch.tensor(ids), torch.tensor(values)


def written(answer: Any, tokenizer: Any, stops: Sequence[int], asked: Sampling, where: str) -> Sample:
    """What a server wrote; without exact ids in its answer, its text is tokenised again and has no log-probabilities.

    Raises:
        ServerError: The answer has another shape.
    """
    try:
        choice = answer["choices"][0]
        text, reason, given = choice["text"], choice.get("finish_reason"), choice.get("token_ids")
        said = (choice.get("logprobs") or {}).get("token_logprobs") or []
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ServerError(
            where,
            got=f"an answer without a text: {str(answer)[:200]}",
            expected="choices with a text",
            remedy="Use a server with /v1/completions.",
        ) from None
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if given is None else tuple(map(int, given))
    if given is None and reason == "stop" and not choice.get("stop_reason") and stops:
        ids = (*ids, stops[0])
    exact = given is not None and len(said) == len(ids) and None not in said
    own = tuple(map(float, said)) if exact else (math.nan,) * len(ids)
    stop = "length" if reason != "stop" else "eos" if ids[-1:] and ids[-1] in stops else "stop"
    return Sample(ids, own, drawn_from(own, asked), stop)
