"""List-wise distillation by a ranking."""

from ..core.recipe import Recipe, recipe
from ..core.term import Term
from ..signals.rankings import RankedChoice, Weighing
from . import base


@recipe(
    paper="arXiv:2506.12542",
    family="objective",
    formula="sum_k alpha_k (log sum_(l >= k) exp z_(c_l) - z_(c_k)), c = the target, then all others by falling p, "
    "alpha_k = softmax(teacher logits / T) at c_k, a mean over trained positions",
    differs=(
        "The paper's classes are images'; here they are the next tokens, at each trained position.",
        "Only `num_ranked` tokens are ranked by default, with the rest of the mass behind them as one choice; their "
        "weights are not rescaled, so that all tokens give the paper's loss.",
    ),
    axes={"writer": "data", "divergence": "Plackett-Luce likelihood of the teacher's order", "gradient": "supervised"},
)
def pld(
    *,
    temperature: float = 1.0,
    num_ranked: int | None = 100,
    weighing: Weighing = "confident",
    trains: str = "answer",
) -> Recipe:
    """Rank the data's token first and the others as the teacher does, each choice weighed by the teacher's confidence.

    Args:
        temperature: Of the softmax that weighs the choices, > 0; the paper's is 1 with 1,000 classes and 4 with 100.
        num_ranked: Tokens besides the target that are ranked, >= 1; none ranks the whole vocabulary.
        weighing: `confident` is the paper's, `even` is ListMLE, `first` leaves cross-entropy.
        trains: `answer` trains the answers, `all` the prompts' text as well.

    Limits:
        weighing=first: supervised.
    """
    return base.offline(Term("order", RankedChoice(temperature, num_ranked, weighing)), trains=trains)
