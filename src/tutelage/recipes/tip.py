"""Token importance in on-policy distillation."""

from typing import Literal

from ..core.errors import SettingError, unknown
from ..core.recipe import Recipe, recipe
from ..core.term import Term, kept, per_token
from ..data.live import Live
from ..data.steps.ask import Ask
from ..signals.divergences import Jensen, kl_forward, kl_reverse
from ..signals.match import Match
from ..signals.picks import Draw, TopShare
from ..signals.readouts import Entropy
from ..signals.scale import Either, Floor, MinMax
from . import base


@recipe(
    paper="arXiv:2604.14084",
    family="token selection",
    formula="KL(q || p) at the share of a round's positions with the largest score, a mean over the kept ones",
    differs=(
        "Entropy is not divided by the logarithm of the vocabulary's size: the min-max scale removes the factor.",
        "No weights a sequence from a reward (the code's option softmax(r / beta)).",
        "Selection over the round, as in the paper; the per-sequence option is not there.",
        "The divergence of scores and loss is over the whole vocabulary, never over the teacher's top k.",
    ),
    axes={"writer": "student", "divergence": "reverse KL", "gradient": "supervised"},
)
def tip(
    *,
    share: float = 0.5,
    by: Literal["either", "entropy", "wrong", "drawn"] = "either",
    clip_share: float = 0.02,
    entropy_power: float = 1.0,
    divergence_power: float = 1.0,
    rollouts: int = 8,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Learn from the positions of the student's own answers where it is unsure, or sure and wrong.

    Args:
        share: Share of a round's positions that are kept, in (0, 1]; the paper trains 0.1, 0.2 and 0.5.
        by: `either` scores h + d - h d, of entropy h and divergence d on a 0 to 1 scale; `entropy` scores h;
            `wrong` scores KL(p || q) (1 - h), for the sure and wrong; `drawn` samples by entropy and JSD.
        clip_share: Share of the largest entropies that are set to the next one, in [0, 1): an outlier keeps the scale.
        entropy_power: With `drawn`, the exponent of the entropy.
        divergence_power: With `drawn`, the exponent of the Jensen-Shannon divergence.
        rollouts: Answers a prompt, at least 1; the paper's are 8.
        max_tokens: The longest answer.
        temperature: Of the student's sampling.

    Limits:
        share=1, one rollout: opd.
    """
    entropy, divergence = MinMax(Entropy(), clip_share), MinMax(Match(kl_reverse))
    odds = Entropy() ** entropy_power * Floor(Match(Jensen(0.5))) ** divergence_power
    picks = {
        "either": TopShare(share, Either(entropy, divergence)),
        "entropy": TopShare(share, entropy),
        "wrong": TopShare(share, Match(kl_forward) * (1 - entropy)),
        "drawn": Draw(share, odds),
    }
    if by not in picks:
        raise unknown("tip.by", by, picks)
    if by != "drawn" and (entropy_power, divergence_power) != (1, 1):
        raise SettingError(
            "tip", got=f"powers with by={by!r}", expected="by='drawn'", remedy="Only drawing has odds: leave them at 1."
        )
    term = Term("kl", Match(kl_reverse), weight=picks[by], per=kept(per_token))
    ask = Ask("student", times=rollouts, max_tokens=max_tokens, temperature=temperature)
    return Recipe((base.train(Live(ask, prompts="train"), term),))
