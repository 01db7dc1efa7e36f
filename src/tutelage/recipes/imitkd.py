"""Imitation-based distillation."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, recipe
from ..core.schedule import Complement, Linear
from ..core.term import Term
from ..data.source import Corpus, Mixture
from ..signals.divergences import cross_entropy, cross_entropy_of_best
from ..signals.match import Match
from . import base


@recipe(
    paper="arXiv:2009.07253",
    family="on-policy",
    formula="-log q(argmax p), or CE(p, q), on answers of the student (share 1 - beta_i of the rows) or of the data",
    differs=(
        "The share beta_i of the data's rows falls by a line over the stage; the paper's decay is not reproduced.",
        "The student samples at a temperature; the paper also looks at greedy and top-k writing.",
    ),
    axes={"writer": "data, then student", "divergence": "cross-entropy with the teacher", "gradient": "supervised"},
)
def imitkd(
    *,
    data_share: float = 1.0,
    final_data_share: float = 0.0,
    whole: bool = False,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Do what the teacher would do next, first on the data's answers and more and more on the student's own.

    Args:
        data_share: Share of rows with the data's answer at the first step, in [0, 1]; 1 begins as plain distillation.
        final_data_share: The share at the end, in [0, 1]; 0 ends on the student's own answers.
        whole: Match the teacher's whole distribution instead of its most probable token.
        max_tokens: The student's longest answer.
        temperature: Of the student's sampling.

    Limits:
        data_share=1, final_data_share=1, whole=true: the gradient of forward_kl.
        data_share=0, final_data_share=0, whole=true: the gradient of gkd with student_share=1 and beta=0.
    """
    if not (0 <= data_share <= 1 and 0 <= final_data_share <= 1):
        raise SettingError(
            "imitkd",
            got=f"data_share={data_share}, final_data_share={final_data_share}",
            expected="shares in [0, 1]",
            remedy="1 and 0 go from the data to the student.",
        )
    share = Linear(data_share, final_data_share)
    live = base.rollouts(max_tokens=max_tokens, temperature=temperature)
    source = Mixture(((live, Complement(share)), (Corpus("train"), share)), by="row")
    compare = cross_entropy if whole else cross_entropy_of_best
    return Recipe((base.train(source, Term("imitate", Match(compare))),))
