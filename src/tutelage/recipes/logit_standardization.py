"""Distillation of standardised logits."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, recipe
from ..core.signal import Read
from ..core.term import Term
from ..signals.divergences import kl_forward
from ..signals.logits import Standardised
from ..signals.match import Match, Targets
from . import base


@recipe(
    paper="arXiv:2403.01427",
    family="objective",
    formula="ce_scale CE + kd_scale b^2 KL(softmax(Z(z_p) / b) || softmax(Z(z_q) / b)), Z(z) = (z - mean) / deviation",
    differs=(
        "The paper's classes are images'; here they are the next tokens, at each trained position.",
        "The base temperature is 0.5 by default, as a vocabulary's likely tokens deviate far; the paper's is 2 to 4.",
        "The transform inside DKD and MLKD is not here; the lens works before any divergence over scores.",
    ),
    axes={"writer": "data", "divergence": "forward KL of standardised logits", "gradient": "supervised"},
)
def logit_standardization(
    *, temperature: float = 0.5, kd_scale: float = 9.0, ce_scale: float = 0.1, trains: str = "answer"
) -> Recipe:
    """Match the relations between logits alone: a small model need not reproduce their mean and range.

    Args:
        temperature: b, > 0, after both sides' logits have mean 0 and standard deviation 1; 0.3 to 1 for a vocabulary.
        kd_scale: Weight of the divergence, >= 0; the code's default is 9, pairs use 6 to 18.
        ce_scale: Weight of the labels on plain logits, >= 0: the divergence fixes neither mean nor scale, so without
            labels the student's confidence is left to chance.
        trains: `answer` trains the answers, `all` the prompts' text as well.

    Limits:
        kd_scale=0, ce_scale=1: supervised.
    """
    if kd_scale < 0 or ce_scale < 0 or kd_scale + ce_scale == 0:
        raise SettingError(
            "logit_standardization",
            got=f"kd_scale={kd_scale}, ce_scale={ce_scale}",
            expected="two weights >= 0, one of them above 0",
            remedy="9 and 0.1 are the paper's.",
        )
    lens = (Standardised(temperature),)
    match = Match(kl_forward, Read("student", through=lens), Read("teacher", through=lens))
    terms = (
        Term("standardised", match, scale=kd_scale * temperature**2),
        Term("labels", Targets(), scale=ce_scale),
    )
    return base.offline(*(t for t in terms if t.scale), trains=trains)
