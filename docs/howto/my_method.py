"""Forward KL, weighted by the teacher's entropy."""

from tutelage.core.recipe import Recipe, recipe
from tutelage.core.signal import Read
from tutelage.core.term import Term, per_token, weighted
from tutelage.recipes import base
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match
from tutelage.signals.readouts import Entropy


@recipe(
    paper="none",
    family="objectives",
    formula="sum_u w_u KL(p_u || q_u) / sum_u w_u, w_u = floor + H(p_u)",
    axes={"writer": "data", "divergence": "forward KL", "gradient": "supervised"},
)
def my_method(*, floor: float = 0.1) -> Recipe:
    """Match the teacher most where it hesitates.

    Args:
        floor: Added to the entropy, in nats, >= 0; a large one gives every position the same weight.

    Limits:
        floor -> infinity: forward_kl.
    """
    weight = Entropy(Read("teacher")) + floor
    return base.offline(Term("kl", Match(kl_forward), weight=weight, per=weighted(per_token)))
