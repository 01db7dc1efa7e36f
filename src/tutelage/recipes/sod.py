"""Step-wise on-policy distillation along turns with a tool."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Read
from ..core.term import Term, Update
from ..data.steps.ask import Ask
from ..data.steps.note import fixed
from ..data.steps.turns import Turns
from ..signals.policy import Clipped
from ..signals.readouts import LogProb
from ..signals.rewards import ADVANTAGE, WATCHED, graded
from ..signals.tools import find
from ..signals.trust import regained


@recipe(
    paper="arXiv:2605.07725",
    family="on-policy",
    formula="-min(r A, clip(r) A), A = the group's reward + scale w (log p(y) - log q_old(y)), w a turn = "
    "min(d_1 / d_k, 1 + delta), d_k the turn's mean |log p(y) - log q_old(y)|",
    differs=(
        "The gate of the released code's older option, more distillation where the reward is bad, is not there.",
        "The reward is the verifier's alone, without a penalty of long answers; one that its length cut off is wrong.",
        "The cold start of the student on traces is a run of its own (seqkd or supervised).",
        "Turns, lengths, batch and rate are the run's; the code's are 16 turns and 20,480 tokens.",
    ),
    axes={"writer": "student with a tool", "divergence": "reverse KL, sampled, by turn", "gradient": "policy"},
)
def sod(
    *,
    tool: str = "python",
    verifier: str = "number",
    scale: float = 1.0,
    delta: float = 0.2,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    turns: int = 4,
    reuse: int = 1,
    rollouts: int = 8,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Trust the teacher less in turns where the student has drifted from it, and reward right ends.

    A turn is a stretch that the student wrote between what the tool said. Its weight is the first turn's gap over its
    own, so a student that comes back to the teacher is taught in full again.

    Args:
        tool: What replies to an answer: `python` runs its last fenced program, or the path of a Python file with a
            function of its name, `Record -> text or None`; None ends the row.
        verifier: What says right or wrong of all that was written: `exact`, `number`, `symbolic`, `schema`, `program`
            or `task`, or the path of a Python file with a function of its name, `Record -> number`.
        scale: Weight of the distillation beside the group's reward, >= 0.
        delta: A later turn's weight is at most 1 + delta, >= -1; -1 teaches in the first turn alone; 0.2 in the script.
        clip_low: Bounds the ratio below, in [0, 1).
        clip_high: Bounds the ratio above, >= 0.
        turns: Answers a row at most, >= 1.
        reuse: Optimiser steps that use each round, >= 1.
        rollouts: Rows a prompt, >= 2.
        max_tokens: The longest answer of a turn.
        temperature: Of the student's sampling.

    Limits:
        scale=0 and one turn: rlad_trrd with alpha=1 and anchor_scale=0, which is GRPO.
    """
    if scale < 0 or delta < -1 or rollouts < 2:
        raise SettingError(
            "sod",
            got=f"scale={scale}, delta={delta}, rollouts={rollouts}",
            expected="scale >= 0, delta >= -1 and 2 or more rollouts",
            remedy="1, 0.2 and 8 are usual.",
        )
    signals = {"old": LogProb(), "taught": LogProb(Read("teacher"))}
    notes, then = fixed(signals if scale else {"old": LogProb()}, reuse)
    advantage, watch = ADVANTAGE, WATCHED
    if scale:
        gap = then["taught"] - then["old"]
        weight = regained(gap, "turns", 1 + delta)
        advantage, watch = ADVANTAGE + scale * weight * gap, (*WATCHED, ("turn weight", weight))
    term = Term("policy", Clipped(advantage, then["old"], clip_low, clip_high))
    ask = Turns(Ask("student", times=rollouts, max_tokens=max_tokens, temperature=temperature), find(tool), turns)
    source = graded(ask, verifier, *notes, reuse=reuse)
    return Recipe((Train("train", source, (Update((term,), watch=watch),)),))
