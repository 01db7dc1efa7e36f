"""Asymmetric on-policy distillation."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Read
from ..core.term import Term, Update, per_row
from ..data.live import Live
from ..data.steps.ask import Ask
from ..data.steps.note import fixed
from ..signals.apply import Apply
from ..signals.divergences import kl_forward
from ..signals.match import Match, Top
from ..signals.picks import Above, Below
from ..signals.policy import Clipped
from ..signals.readouts import Entropy, LogProb


@recipe(
    paper="arXiv:2605.06387",
    family="on-policy",
    formula="top k's part of KL(p || q) where p(y) - q(y) <= tau, elsewhere -A q(y)/q_old(y), A = log p(y)/q_old(y)",
    differs=(
        "k, the sum without a factor 1/k and the clip are reconstructed; so is that gate and advantage stay as they "
        "were when the answer was written where a round is used again.",
        "Learning rate, batch and lengths are the run's.",
    ),
    axes={"writer": "student", "divergence": "reverse KL, sampled, or forward KL of the top k", "gradient": "policy"},
)
def aopd(
    *,
    tau: float = 0.0,
    num_kept: int = 10,
    clip: float = 0.2,
    reuse: int = 1,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Reinforce the tokens that the teacher likes more than the student does; imitate the teacher at the others.

    A token that is only told to be less likely gives its probability to what the student already prefers, so a right
    token of tiny probability is never found; there the teacher's own favourites are followed instead.

    Args:
        tau: In probability, in [-1, 1]: a token is imitated where p(y) - q(y) is at most tau. 0, the paper's, parts by
            the sign of the advantage; -1 imitates nowhere, 1 everywhere.
        num_kept: The teacher's k most probable tokens that imitation sums over, >= 1, with both sides' probabilities as
            they are: a part of a divergence, which may be negative.
        clip: Bounds the ratio to the student that wrote the answer, in [0, 1).
        reuse: Optimiser steps that use each round of answers, >= 1.
        max_tokens: The longest answer.
        temperature: Of the student's sampling; the advantage is at temperature 1.

    Limits:
        tau=-1: the gradient of the policy gradient whose advantage is the log-ratio, a mean over answers.
        tau=1 and k the whole vocabulary: forward KL on the student's own answers, a mean over answers.
    """
    if not -1 <= tau <= 1:
        raise SettingError("aopd.tau", got=str(tau), expected="a difference of probabilities in [-1, 1]", remedy="0.")
    notes, then = fixed({"old": LogProb(), "taught": LogProb(Read("teacher"))}, reuse)
    gain = Apply("exp", then["taught"]) - Apply("exp", then["old"])
    imitate = Match(kl_forward, on=Top(num_kept, rest="drop"))
    exploit = Clipped(then["taught"] - then["old"], then["old"], clip, clip)
    term = Term("token", Below(gain, tau) * imitate + Above(gain, tau) * exploit, per=per_row)
    ask = Ask("student", max_tokens=max_tokens, temperature=temperature)
    watch = (("imitated", Below(gain, tau)), ("entropy", Entropy()))
    return Recipe((Train("train", Live(ask, *notes, prompts="train", reuse=reuse), (Update((term,), watch=watch),)),))
