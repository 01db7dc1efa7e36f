"""Reverse KL on the data."""

from ..core.recipe import Recipe, recipe
from ..core.term import Term
from ..signals.divergences import Tempered, kl_reverse
from ..signals.match import Match
from . import base


@recipe(
    paper="arXiv:2306.08543",
    family="objectives",
    formula="T^2 KL(q_T || p_T), a mean over trained positions",
    differs=("Computed exactly at each position of the data; the paper also differentiates through sampling.",),
    axes={"writer": "data", "divergence": "reverse KL", "gradient": "supervised"},
)
def reverse_kl(*, temperature: float = 1.0, trains: str = "answer") -> Recipe:
    """Match the teacher's next-token distribution on the data, staying where the teacher is likely.

    Args:
        temperature: Softens both sides, > 0.
        trains: `answer` trains the answers, `all` the prompts' text as well.

    Limits:
        on the student's own answers instead of data: opd.
    """
    return base.offline(
        Term("kl", Match(kl_reverse if temperature == 1 else Tempered(kl_reverse, temperature))), trains=trains
    )
