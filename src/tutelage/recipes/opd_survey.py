"""On-policy distillation under any f-divergence: the frame in which a survey of the field writes all of it."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, recipe
from ..core.term import Term
from ..signals.divergences import Tempered
from ..signals.divergences.generators import member
from ..signals.match import Match
from . import base


@recipe(
    paper="arXiv:2604.00626",
    family="on-policy",
    formula="sum_t D_f(p || q) = sum_t sum_v q f(p / q) on the student's answers (lambda of the steps) or on data",
    differs=(
        "Of the survey a translated copy was read; generators marked as derived there are ours, checked against "
        "autograd and loops.",
        "The mixture of writers is by the step, and its other side is the data; the survey also allows the teacher.",
        "Temperatures of loss and sampling are separate; the classic factor T^2 is left out unless `scaled` is set.",
        "The bound of errors that grow by a line needs a teacher that is right where the student goes.",
    ),
    axes={"writer": "student and data", "divergence": "any f-divergence", "gradient": "supervised"},
)
def opd_survey(
    *,
    divergence: str = "kl_reverse",
    share: float = 0.5,
    student_share: float = 1.0,
    temperature: float = 1.0,
    loss_temperature: float = 1.0,
    scaled: bool = False,
    max_tokens: int = 128,
) -> Recipe:
    """Match the teacher under a divergence by name, on a mixture of the student's own answers and the data's.

    Args:
        divergence: `kl_forward` covers modes, `kl_reverse` seeks them; `total_variation`, `chi_squared`,
            `squared_hellinger`; `jensen`, `skewed_forward`, `skewed_reverse` and `alpha` also have a share.
        share: Of the last four: beta, the teacher's share of the mixture, or alpha, a side's share in its own mixture,
            both in [0, 1]; or the power alpha, any number.
        student_share: lambda, the probability that a step uses answers of the student, in [0, 1].
        temperature: Of the student's sampling.
        loss_temperature: Divides both sides' logits in the loss, > 0.
        scaled: Multiply the loss by the square of its temperature, which keeps the gradient's size.
        max_tokens: The longest answer.

    Limits:
        student_share=1: opd; by other names any on-policy divergence.
        divergence=jensen: gkd with the same beta, student_share and temperatures.
        divergence=kl_forward, student_share=0: forward_kl.
    """
    if not 0 <= student_share <= 1:
        raise SettingError(
            "opd_survey.student_share",
            got=str(student_share),
            expected="a share in [0, 1]",
            remedy="1 trains on the student's answers alone.",
        )
    compare = member(divergence, share).compare
    compare = compare if loss_temperature == 1 else Tempered(compare, loss_temperature, scaled=scaled)
    term = Term(divergence, Match(compare))
    return Recipe((base.mixed(term, student_share=student_share, max_tokens=max_tokens, temperature=temperature),))
