"""Generalised on-policy distillation, and its extrapolation."""

from dataclasses import replace
from typing import Any

from ..core.recipe import Recipe, recipe
from ..core.signal import Noted, Read, Still
from ..core.term import Term, Update
from ..signals.importance import Ratio
from ..signals.picks import Tagged
from ..signals.policy import Clipped
from ..signals.readouts import LogProb
from ..voices.itself import Initial
from ..voices.route import Route
from . import base


@recipe(
    paper="arXiv:2602.12125",
    family="on-policy",
    formula="-min(r A, clip(r) A), A = reward_scale log(p/ref) - log(q/ref) at the sampled token, a mean over tokens",
    differs=(
        "The defaults are 128 tokens an answer, not 16,384; batch and learning rate are the run's.",
        "Teachers in another context (the paper's context distillation) are a view, as in opsd, not an argument here.",
        "The sampler's log-probabilities are those of the draw, so that a temperature is corrected for as well.",
    ),
    axes={"writer": "student", "divergence": "reverse KL to an extrapolated teacher", "gradient": "policy"},
)
def g_opd_exopd(
    *,
    reward_scale: float = 1.25,
    teacher: str | dict[str, str] = "teacher",
    reference: str | dict[str, str] | None = None,
    tag: str = "domain",
    clip: float = 0.2,
    ratio_cap: float = 5.0,
    reuse: int = 1,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Follow the direction from a reference to the teacher, and past the teacher.

    Its optimum at each state is ref^(1 - reward_scale) p^reward_scale, normalised.

    Args:
        reward_scale: 1 is on-policy distillation, above 1 goes past the teacher, 0 goes back to the reference; the
            paper's is 1.25, and much more is unstable.
        teacher: A model slot, or a slot for each value of the records' tag.
        reference: A slot, or a slot for each tag: e.g. the teacher's own base; none takes the student as it was at the
            start.
        tag: The field of the records that names the teacher, where there are several.
        clip: Bounds the ratio to the student that wrote the answer, in [0, 1).
        ratio_cap: The largest weight of a token for what sampler and trainer disagree on, > 0.
        reuse: Optimiser steps that use each round of answers.
        max_tokens: The longest answer.
        temperature: Of the student's sampling.

    Limits:
        reward_scale=1: the expected gradient is that of opd, for any reference.
    """
    voices: dict[str, Any] = {"start": Initial("student")}
    taught = Read(_named("teachers", teacher, tag, voices))
    based = Read(_named("bases", reference or "start", tag, voices))
    # strictly on-policy the student that wrote is the student that learns, and what it said needs no memory
    own = Still(LogProb()) if reuse == 1 else Noted("log_prob")
    if reward_scale == 1:
        advantage = LogProb(taught) - own
    else:
        advantage = reward_scale * (LogProb(taught) - LogProb(based)) - (own - LogProb(based))
    loss = Clipped(advantage * Ratio(LogProb(), Noted("drawn"), ratio_cap), against=own, low=clip, high=clip)
    stage = base.train(base.rollouts(max_tokens=max_tokens, temperature=temperature, reuse=reuse), Term("policy", loss))
    shares = tuple((f"share of {t}", Tagged(tag, t)) for t in teacher) if isinstance(teacher, dict) else ()
    used = {r.who for r in loss.reads()}
    update = Update(stage.updates[0].objective, watch=shares)
    return Recipe((replace(stage, updates=(update,), voices={n: v for n, v in voices.items() if n in used}),))


def _named(name: str, slot: str | dict[str, str], tag: str, voices: dict[str, Any]) -> str:
    """The voice to read: the slot itself, or a route over several."""
    if isinstance(slot, str):
        return slot
    voices[name] = Route(tag, tuple(slot.items()))
    return name
