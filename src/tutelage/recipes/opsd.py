"""On-policy self-distillation."""

from dataclasses import replace

from ..core.errors import SettingError
from ..core.recipe import Recipe, recipe
from ..core.signal import Read
from ..core.term import Term
from ..data.live import Live
from ..data.steps.ask import Ask
from ..data.views import Told
from ..signals.divergences import Jensen, Tempered
from ..signals.match import Match, Top, whole
from ..signals.partial import CappedForward
from ..signals.policy import ScoreFunction
from ..signals.readouts import gap
from ..voices.itself import itself
from . import base

BEFORE = "\n\nHere is a reference solution:\n"
AFTER = "\n\nWith its help, solve the problem again in your own words."


@recipe(
    paper="arXiv:2601.18734",
    family="self-distillation",
    formula="beta KL(p || m) + (1 - beta) KL(q || m) at the student's own answers, p the same model told the solution",
    differs=(
        "Rollouts are not cut to the 20 most probable tokens, only to the mass top_p.",
        "The informed model scores at once; the option that it first writes a rationale is not there.",
        "The cap on a category's part of the forward KL is reconstructed from the paper's text.",
        "The wording of the instruction after the solution is this project's.",
        "A loss temperature is refused together with a support of the top k.",
    ),
    axes={"writer": "student", "divergence": "Jensen-Shannon", "gradient": "supervised"},
)
def opsd(
    *,
    beta: float = 0.5,
    decay: float = 1.0,
    loss_temperature: float = 1.0,
    num_kept: int | None = None,
    cap_nats: float | None = None,
    sampled: bool = False,
    max_tokens: int = 1024,
    temperature: float = 1.1,
    top_p: float = 0.95,
) -> Recipe:
    """A model that is told the reference solution teaches itself as it is without.

    The data's own answers are the solutions; the student never sees them.

    Args:
        beta: The teacher's share of the mixture, in [0, 1]: 0 is KL(p || q), 1 is KL(q || p).
        decay: Of the teacher's weights, in [0, 1]: 1 keeps the initial policy (with an adapter: its base), which is
            the safest; 0 takes the current weights; the paper's moving average is 0.999.
        loss_temperature: Divides both sides' logits in the loss, > 0.
        num_kept: Compare only the teacher's k most probable tokens, renormalised; none compares all.
        cap_nats: With beta=0, the most that one token of the vocabulary may add to a position's loss.
        sampled: Use the sampled token alone: a policy gradient whose advantage is the log-ratio.
        max_tokens: The longest answer; one that is cut off is kept, since each position stands for itself.
        temperature: Of the student's sampling.
        top_p: Of the student's sampling; the loss is over the whole vocabulary all the same.

    Limits:
        nothing told and decay=0: the loss and its gradient are 0.
        a teacher in place of the informed self, beta=1, temperature=1, top_p=1: opd.
    """
    if cap_nats is not None and beta != 0:
        raise SettingError(
            "opsd.cap_nats", got=f"{cap_nats} with beta={beta}", expected="beta=0", remedy="Only KL(p || q) is capped."
        )
    divergence = Jensen(beta) if cap_nats is None else CappedForward(cap_nats)
    if loss_temperature != 1:
        divergence = Tempered(divergence, loss_temperature, scaled=False)
    on = whole if num_kept is None else Top(num_kept, rest="renormalise")
    loss = ScoreFunction(gap(teacher="informed")) if sampled else Match(divergence, p=Read("informed"), on=on)
    ask = Ask("student", max_tokens=max_tokens, temperature=temperature, top_p=top_p)
    stage = replace(
        base.train(Live(ask, prompts="train"), Term("jensen", loss)),
        voices={"informed": itself("student", decay=decay, sees="informed")},
        views={"informed": Told(before=BEFORE, after=AFTER)},
    )
    return Recipe((stage,))
