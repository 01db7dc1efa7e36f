"""Reinforcement-aware distillation: the teacher inside the trust region."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Read
from ..core.term import Term, Update
from ..data.steps.ask import Ask
from ..data.steps.note import fixed
from ..signals.policy import K3, Clipped
from ..signals.readouts import LogProb, gap
from ..signals.rewards import ADVANTAGE, WATCHED, graded
from ..voices.itself import Initial


@recipe(
    paper="arXiv:2602.22495",
    family="on-policy",
    formula="-min(r A, clip(r) A) + beta k3(q, ref), r = q(y) / (q_old(y)^alpha p(y)^(1 - alpha)), A a group's reward",
    differs=(
        "alpha, the clip, beta with its estimator k3 and the bound of 10 on |log r| are reconstructed.",
        "An answer that its length cut off counts as wrong.",
        "Learning rate, batch and lengths are the run's.",
    ),
    axes={"writer": "student", "divergence": "ratio to a mixture of old student and teacher", "gradient": "policy"},
)
def rlad_trrd(
    *,
    verifier: str = "number",
    alpha: float = 0.5,
    clip: float = 0.2,
    anchor_scale: float = 1e-3,
    reuse: int = 2,
    rollouts: int = 8,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Reinforce right answers within a trust region around the old student and the teacher, mixed geometrically.

    A right token that the teacher favours is pushed up, one that it doubts is left alone by the clip; a wrong token is
    pushed down where the teacher doubts it too. A teacher that is sure and wrong therefore vetoes right tokens.

    Args:
        verifier: What says right or wrong: `exact`, `number`, `symbolic`, `schema`, `program` or `task`, or the path
            of a Python file with a function of its name, `Record -> number`.
        alpha: The old student's share of the ratio's denominator, in [0, 1]: 1 is GRPO, 0 has the teacher alone.
        clip: Bounds the ratio, in [0, 1).
        anchor_scale: Weight of the divergence to the student as it was at the start, >= 0.
        reuse: Optimiser steps that use each round of answers, >= 1.
        rollouts: Answers a prompt, >= 2: their rewards are compared.
        max_tokens: The longest answer.
        temperature: Of the student's sampling; ratios are at temperature 1.

    Limits:
        alpha=1: GRPO, whatever the teacher.
    """
    if not 0 <= alpha <= 1 or anchor_scale < 0 or rollouts < 2:
        raise SettingError(
            "rlad_trrd",
            got=f"alpha={alpha}, anchor_scale={anchor_scale}, rollouts={rollouts}",
            expected="alpha in [0, 1], anchor_scale >= 0 and 2 or more rollouts",
            remedy="0.5, 0.001 and 8 are usual.",
        )
    notes, then = fixed({"old": LogProb(), "taught": LogProb(Read("teacher"))}, reuse)
    mixed = then["old"] if alpha == 1 else alpha * then["old"] + (1 - alpha) * then["taught"]
    terms = [Term("policy", Clipped(ADVANTAGE, mixed, clip, clip, most=10.0))]
    if anchor_scale:
        terms.append(Term("anchor", K3(p=LogProb(Read("start"))), scale=anchor_scale))
    ask = Ask("student", times=rollouts, max_tokens=max_tokens, temperature=temperature)
    source = graded(ask, verifier, *notes, reuse=reuse)
    watch = (*WATCHED, ("teacher gap", gap()))
    voices = {"start": Initial("student")} if anchor_scale else {}
    return Recipe((Train("train", source, (Update(tuple(terms), watch=watch),), voices=voices),))
