"""Generalised knowledge distillation."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, recipe
from ..core.term import Term
from ..signals.divergences import Jensen, Tempered
from ..signals.match import Match
from . import base


@recipe(
    paper="arXiv:2306.13649",
    family="on-policy",
    formula="JSD_beta(p_T, q_T) on answers of the student (share lambda of the steps) or of the data",
    differs=("The two temperatures, of the loss and of the sampling, are separate arguments.",),
    axes={"writer": "student and data", "divergence": "Jensen-Shannon", "gradient": "supervised"},
)
def gkd(
    *,
    student_share: float = 0.5,
    beta: float = 0.5,
    temperature: float = 0.9,
    loss_temperature: float = 1.0,
    max_tokens: int = 128,
) -> Recipe:
    """Match the teacher on a mixture of the student's own answers and the data's.

    Args:
        student_share: Probability that a step uses answers of the student (the paper's lambda), in [0, 1].
        beta: The teacher's share in the divergence's mixture: 0 is forward KL, 1 is reverse KL.
        temperature: Of the student's sampling.
        loss_temperature: Divides both sides' logits in the loss; no T^2 factor, as no loss on labels stands beside it.
        max_tokens: The longest answer.

    Limits:
        student_share=0, beta=0: forward_kl.
        student_share=1, beta=1, temperature=1: opd.
    """
    if not 0 <= student_share <= 1:
        raise SettingError(
            "gkd.student_share", got=str(student_share), expected="a share in [0, 1]", remedy="0.5 mixes evenly."
        )
    loss = Match(Jensen(beta) if loss_temperature == 1 else Tempered(Jensen(beta), loss_temperature, scaled=False))
    stage = base.mixed(
        Term("jensen", loss), student_share=student_share, max_tokens=max_tokens, temperature=temperature
    )
    return Recipe((stage,))
