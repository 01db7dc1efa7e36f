"""Generalised Jensen-Shannon divergence on the data."""

from ..core.recipe import Recipe, recipe
from ..core.term import Term
from ..signals.divergences import Jensen
from ..signals.match import Match
from . import base


@recipe(
    paper="arXiv:2306.13649",
    family="objectives",
    formula="beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q, a mean over trained positions",
    axes={"writer": "data", "divergence": "Jensen-Shannon", "gradient": "supervised"},
)
def jensen(*, beta: float = 0.5, trains: str = "answer") -> Recipe:
    """Match the teacher with a bounded divergence between the two directions of KL.

    Args:
        beta: The teacher's share of the mixture, in [0, 1].
        trains: `answer` trains the answers, `all` the prompts' text as well.

    Limits:
        beta=0: forward_kl.
        beta=1: reverse_kl.
    """
    return base.offline(Term("jensen", Match(Jensen(beta))), trains=trains)
