"""Privileged information distilled within one set of weights."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Noted, Read
from ..core.term import Term, Update
from ..data.steps.ask import Ask
from ..data.steps.note import fixed
from ..data.steps.through import Through
from ..data.views import Told
from ..signals.match import Targets
from ..signals.policy import Clipped
from ..signals.pools import GroupNorm, RowMean
from ..signals.readouts import LogProb
from ..signals.rewards import RIGHT, WATCHED, graded
from ..voices.says import Says


@recipe(
    paper="arXiv:2602.04942",
    family="self-distillation",
    formula="-a min(r_T A, clip) - (1 - a) min(r_S A, clip), r = q(y | told) or q(y) over q_old(y | told), A the "
    "group's reward - beta mean log q_old(y | told) / q_old(y)",
    differs=(
        "The estimator, ratios a token with a clip and the penalty inside the reward, is a third party's; the literal "
        "penalty on the student is `likely_scale` (reconstructed).",
        "What is told is a field of the data, not tool calls of another agent's trace; environments with several turns "
        "and the companion that writes without the field are not here.",
        "An answer that its length cut off counts as wrong; lengths and batch are the run's.",
    ),
    axes={"writer": "student, told", "divergence": "reward less log-ratio to the untold self", "gradient": "policy"},
)
def pi_distill(
    *,
    verifier: str = "number",
    told: str = "reference",
    teacher_share: float = 0.5,
    beta: float = 0.25,
    likely_scale: float = 0.0,
    clip: float = 0.2,
    reuse: int = 1,
    rollouts: int = 8,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Write answers with privileged information, and learn to write them with and without it, in one set of weights.

    Args:
        verifier: What says right or wrong: `exact`, `number`, `symbolic`, `schema`, `program` or `task`, or the path
            of a Python file with a function of its name, `Record -> number`.
        told: The field of the records that holds the privileged information; `reference` is the data's own answer.
        teacher_share: a, in [0, 1]: 1 trains the told self alone, 0 the untold one alone; 0.5 is the steadiest.
        beta: Nats of reward that a nat a token between told and untold self costs, >= 0.
        likely_scale: Weight of the untold self's negative log-likelihood of all answers, >= 0.
        clip: Bounds both ratios to the told self that wrote the answer, in [0, 1).
        reuse: Optimiser steps that use each round of answers, >= 1.
        rollouts: Answers a prompt, >= 2.
        max_tokens: The longest answer.
        temperature: Of the sampling; ratios are at temperature 1.

    Limits:
        teacher_share=0, beta=0 and nothing told: rlad_trrd with alpha=1 and anchor_scale=0, which is GRPO.
    """
    if not 0 <= teacher_share <= 1 or beta < 0 or likely_scale < 0 or rollouts < 2:
        raise SettingError(
            "pi_distill",
            got=f"teacher_share={teacher_share}, beta={beta}, likely_scale={likely_scale}, rollouts={rollouts}",
            expected="teacher_share in [0, 1], beta and likely_scale >= 0 and 2 or more rollouts",
            remedy="0.5, 0.25, 0 and 8 are usual.",
        )
    view, old = Told(told), Noted("log_prob")
    notes, then = fixed({"untold": LogProb()}, reuse)
    advantage = GroupNorm(RIGHT - beta * RowMean(old - then["untold"]) if beta else RIGHT, epsilon=1e-6)
    told_term = Term("told", Clipped(advantage, old, clip, clip, Read("told")), scale=teacher_share)
    untold = Term("untold", Clipped(advantage, old, clip, clip), scale=1 - teacher_share)
    terms = (told_term, untold, *((Term("likely", Targets(), scale=likely_scale),) if likely_scale else ()))
    ask = Through(view, Ask("student", times=rollouts, max_tokens=max_tokens, temperature=temperature))
    source = graded(ask, verifier, *(notes if beta else ()), reuse=reuse)
    watch = (*WATCHED, ("told less untold", old - LogProb()))
    voices, views = {"told": Says("student", "told")}, {"told": view}
    return Recipe((Train("train", source, (Update(terms, watch=watch),), voices=voices, views=views),))
