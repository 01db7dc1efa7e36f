"""Forward KL: the classic."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, recipe
from ..core.term import Term
from ..signals.divergences import Tempered, kl_forward
from ..signals.match import Match, Targets
from . import base


@recipe(
    paper="arXiv:1503.02531",
    family="objectives",
    formula="(1 - label_share) T^2 KL(p_T || q_T) + label_share CE(y, q), a mean over trained positions",
    axes={"writer": "data", "divergence": "forward KL", "gradient": "supervised"},
)
def forward_kl(*, temperature: float = 1.0, label_share: float = 0.0, trains: str = "answer") -> Recipe:
    """Match the teacher's next-token distribution on the data, covering all that the teacher covers.

    Args:
        temperature: Softens both sides, > 0; the paper used up to 20 on images, language models mostly 1 to 2.
        label_share: Share of the cross-entropy with the data's own tokens, in [0, 1].
        trains: `answer` trains the answers, `all` the prompts' text as well.

    Limits:
        label_share=1: supervised.
        temperature -> infinity: the squared distance of centred logits, divided by 2 and by the number of categories.
    """
    if not 0 <= label_share <= 1:
        raise SettingError(
            "forward_kl.label_share",
            got=str(label_share),
            expected="a share in [0, 1]",
            remedy="0 leaves the labels out.",
        )
    kl = Match(kl_forward if temperature == 1 else Tempered(kl_forward, temperature))
    terms = [Term("kl", kl, scale=1 - label_share)]
    if label_share:
        terms.append(Term("labels", Targets(), scale=label_share))
    return base.offline(*terms, trains=trains)
