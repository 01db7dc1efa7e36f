"""What is measured at each judged position: one pass over student and teacher scores, a few numbers a position.

Everything else (fidelity, calibration, perplexity, means by record) is a tally over the vectors that ``measure``
returns, so the heads are applied once however many figures are reported.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.errors import NeedError
from ...core.node import CHUNK_ELEMENTS, TILE_ELEMENTS
from ...core.scores import Scores

NUM_TOP = 5


def chunk_rows(num_categories: int) -> int:
    """How many units' raw logits are held at once: about 50 MB in float32."""
    return max(1, CHUNK_ELEMENTS // max(1, num_categories))


@torch.no_grad()
def measure(log_q: Scores, log_p: Scores, target: Tensor) -> dict[str, Tensor]:
    """Every figure of each unit, as Float64[U] vectors by name.

    ``kl`` KL(p||q), ``reverse_kl`` KL(q||p), ``jensen`` (all nats), ``total_variation`` in [0, 1], ``top1`` (both name
    the same most probable category), ``top5`` (share of the teacher's five most probable among the student's five), and
    for ``student_`` and ``teacher_`` each: ``nll`` (nats, of the target), ``entropy`` (nats), ``confidence`` (largest
    probability), ``correct`` (the most probable category is the target), ``brier`` (sum of squared differences to the
    target's indicator, in [0, 2]).

    Args:
        log_q: The student's scores over U units.
        log_p: The teacher's scores over the same units and categories.
        target: Int[U], the category that the data names.

    Raises:
        NeedError: The two do not stand for the same units or categories.
    """
    _check(log_q, log_p, target)
    rows_chunk = chunk_rows(log_q.num_categories)
    rows_tile = max(1, TILE_ELEMENTS // max(1, log_q.num_categories))
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(target), rows_chunk):
        chunk = slice(start, min(start + rows_chunk, len(target)))
        q, p, y = log_q.held(chunk), log_p.held(chunk), target[chunk]
        for at in range(0, len(y), rows_tile):
            rows = slice(at, min(at + rows_tile, len(y)))
            parts.append(_tile(q.at(rows), p.at(rows), y[rows]))
    if not parts:
        width = max(1, log_q.num_categories)
        some = torch.full((1, width), -1.0)
        return {name: value[:0] for name, value in _tile(some, some, torch.zeros(1, dtype=torch.long)).items()}
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _check(log_q: Scores, log_p: Scores, target: Tensor) -> None:
    if len(log_q) != len(log_p) or len(log_q) != len(target):
        raise NeedError(
            "measure",
            got=f"{len(log_q)} student units, {len(log_p)} teacher units and {len(target)} targets",
            expected="the same units on all three",
            remedy="Predict student and teacher on views of one batch.",
        )
    if log_q.num_categories != log_p.num_categories:
        raise NeedError(
            "measure",
            got=f"{log_q.num_categories} student and {log_p.num_categories} teacher categories",
            expected="one vocabulary",
            remedy="Agree on the real vocabulary size first, or align the two tokenizers.",
        )


def _tile(log_q: Tensor, log_p: Tensor, target: Tensor) -> dict[str, Tensor]:
    q, p = log_q.exp(), log_p.exp()
    # a NaN fails the comparison too, and the careful product keeps it: a broken model must not look perfect
    dot = _dot if float(torch.minimum(log_q.min(), log_p.min())) > -math.inf else _careful_dot
    p_log_p, q_log_q = dot(p, log_p), dot(q, log_q)
    both = p + q
    k = min(NUM_TOP, q.shape[1])
    top_q, top_p = log_q.topk(k).indices, log_p.topk(k).indices
    out = {
        "kl": p_log_p - dot(p, log_q),
        "reverse_kl": q_log_q - dot(q, log_p),
        # sum of m log m with m = (p + q) / 2; probabilities that round to 0 add 0
        "jensen": (p_log_p + q_log_q - _dot(both, both.clamp_min(torch.finfo(both.dtype).tiny).log_())) / 2
        + math.log(2),
        "total_variation": torch.linalg.vector_norm(p - q, ord=1, dim=-1).double() / 2,
        "top1": (top_q[:, 0] == top_p[:, 0]).double(),
        "top5": (top_p.unsqueeze(2) == top_q.unsqueeze(1)).any(2).double().mean(1),
    }
    for who, prob, log_prob, top in (("student", q, log_q, top_q), ("teacher", p, log_p, top_p)):
        true = log_prob.gather(1, target.unsqueeze(1)).squeeze(1).double()
        out[f"{who}_nll"] = -true
        out[f"{who}_entropy"] = -(q_log_q if who == "student" else p_log_p)
        out[f"{who}_confidence"] = prob.gather(1, top[:, :1]).squeeze(1).double()
        out[f"{who}_correct"] = (top[:, 0] == target).double()
        out[f"{who}_brier"] = 1 - 2 * true.exp() + _dot(prob, prob)
    return out


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a, b).double()


def _careful_dot(prob: Tensor, value: Tensor) -> Tensor:
    # 0 * inf is 0 here, while 0 * NaN stays NaN
    return torch.where((prob == 0) & ~value.isnan(), torch.zeros_like(prob), prob * value).sum(-1, dtype=torch.float64)
