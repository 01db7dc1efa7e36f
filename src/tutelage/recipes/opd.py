"""On-policy distillation."""

from ..core.recipe import Recipe, recipe
from ..core.term import Term
from ..signals.divergences import kl_reverse
from ..signals.match import Match
from . import base


@recipe(
    paper="arXiv:2306.13649",
    family="on-policy",
    formula="KL(q || p) at each position of answers that the student wrote, a mean over those positions",
    differs=("The whole vocabulary is summed at each position; public trainers often use the sampled token alone.",),
    axes={"writer": "student", "divergence": "reverse KL", "gradient": "supervised"},
)
def opd(*, max_tokens: int = 128, temperature: float = 1.0, reuse: int = 1) -> Recipe:
    """Correct the student where its own answers lead it.

    Args:
        max_tokens: The longest answer.
        temperature: Of the student's sampling; the loss is at temperature 1.
        reuse: Optimiser steps that use each round of answers; above 1 they are slightly stale.

    Limits:
        is gkd with student_share=1 and beta=1.
    """
    return base.on_policy(Term("kl", Match(kl_reverse)), max_tokens=max_tokens, temperature=temperature, reuse=reuse)
