"""What is right: formulas written out in float64, one row at a time, without masks, padding or chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import tiny
from .asked import IGNORED, Heads, Row, Scene


def divergence(log_q: Tensor, log_p: Tensor, beta: float) -> Tensor:
    """The generalised Jensen-Shannon divergence of the last axis, with both KLs as its ends."""
    if beta == 0:
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    if beta == 1:
        return (log_q.exp() * (log_q - log_p)).sum(-1)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))
    return beta * divergence(log_m, log_p, 0.0) + (1 - beta) * divergence(log_m, log_q, 0.0)


def bucketed(log_q: Tensor, log_p: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The teacher's k most probable tokens, and all others as one category."""
    order = log_p.argsort(-1, descending=True)
    sides = []
    for side in (log_q, log_p):
        ordered = side.gather(-1, order)
        sides.append(torch.cat([ordered[..., :k], ordered[..., k:].logsumexp(-1, keepdim=True)], -1))
    return sides[0], sides[1]


def loss(asked: Heads) -> Tensor:
    """The scalar of ``asked``, whose tensors are in float64; tokens that only one head has do not exist."""
    size = min(len(asked.weight), len(asked.teacher_weight))
    logits = asked.hidden @ asked.weight[:size].T
    logits = logits if asked.bias is None else logits + asked.bias[:size]
    log_q = (logits / asked.temperature).log_softmax(-1)
    log_p = (asked.teacher_hidden @ asked.teacher_weight[:size].T / asked.temperature).log_softmax(-1)
    if asked.top_k:
        log_q, log_p = bucketed(log_q, log_p, asked.top_k)
    each = divergence(log_q, log_p, asked.beta)
    each = each if asked.token_weights is None else each * asked.token_weights.double()
    kept = asked.labels != IGNORED
    return torch.stack([d for d, keep in zip(each, kept, strict=True) if keep] or [each.sum() * 0]).sum() / max(
        int(kept.sum()), 1
    )


Rule = Callable[[Row, Scene], Sequence[int]]


def predicting(row: Row, scene: Scene) -> Sequence[int]:
    """Positions whose outputs predict what trains: the rule that every paper means."""
    length = len(row.prompt) + len(row.answer)
    return range(0 if scene.prompt_trains else len(row.prompt) - 1, length - 1)


def reading(row: Row, scene: Scene) -> Sequence[int]:
    """Positions that read what trains: one too late."""
    length = len(row.prompt) + len(row.answer)
    return range(0 if scene.prompt_trains else len(row.prompt), length)


def every(row: Row, scene: Scene) -> Sequence[int]:
    """Prompts too."""
    return range(len(row.prompt) + len(row.answer) - 1)


def without_end(row: Row, scene: Scene) -> Sequence[int]:
    """All but the prediction of the end of the text."""
    return predicting(row, scene)[:-1]


RULES: dict[str, Rule] = {
    "predicting positions": predicting,
    "reading positions (one too late)": reading,
    "prompts too": every,
    "no end of text": without_end,
}


def step(scene: Scene, rows: Sequence[Row], rule: Rule = predicting, mean_of_means: int = 0) -> dict[str, Tensor]:
    """The gradient of a step by parameter name: the mean over all units of all rows.

    ``mean_of_means`` > 0 averages the means of parts of so many rows instead, which is wrong.
    """
    student, teacher = tiny.pair(scene, torch.float64)
    teacher.eval()
    parts = [rows[i : i + (mean_of_means or len(rows))] for i in range(0, len(rows), mean_of_means or len(rows))]
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        some = [_row(student, teacher, scene, row, rule(row, scene)) for row in part]
        total = total + torch.cat(some).mean() / len(parts)
    total.backward()
    return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}


def _row(
    student: torch.nn.Module, teacher: torch.nn.Module, scene: Scene, row: Row, positions: Sequence[int]
) -> Tensor:
    ids = torch.tensor([row.prompt + row.answer])
    size = tiny.SIZE

    def log_probs(model: torch.nn.Module) -> Tensor:
        logits = model(input_ids=ids).logits[0, list(positions), :size]
        return (logits / scene.temperature).log_softmax(-1)

    with torch.no_grad():
        log_p = log_probs(teacher)
    return divergence(log_probs(student), log_p, scene.beta)
