"""Direction-adaptive self-distillation."""

from typing import Literal

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Read
from ..core.term import Term, Update
from ..data.steps.ask import Ask
from ..data.steps.note import fixed
from ..data.views import Told
from ..signals.picks import Below
from ..signals.policy import Clipped
from ..signals.readouts import Entropy, LogProb
from ..signals.rewards import ADVANTAGE, WATCHED, graded
from ..signals.trust import towards, unit_gap
from ..voices.itself import itself


@recipe(
    paper="arXiv:2605.22563",
    family="self-distillation",
    formula="-min(r A, clip(r) A), A = the group's reward + beta w d; d the log-ratio to the informed self in units of "
    "its size, w = tanh((quantile of entropies - entropy) / their mean deviation) sigmoid(|d| - 1)",
    differs=(
        "beta, the unit of d (its mean size in the answer) and the boundary (or else `rho`) are reconstructed.",
        "An answer that its length cut off is wrong; the instruction, lengths, batch and rate are ours.",
    ),
    axes={"writer": "student", "divergence": "reverse KL, sampled, signed by entropy", "gradient": "policy"},
)
def dasd_entropy(
    *,
    verifier: str = "number",
    beta: float = 0.1,
    share: float = 0.2,
    boundary: Literal["forks", "rho"] = "forks",
    uniform: float | None = None,
    decay: float = 0.0,
    clip: float = 0.2,
    reuse: int = 1,
    rollouts: int = 8,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Follow the self that was told the solution where the student is sure, and move away from it where paths fork.

    Args:
        verifier: What says right or wrong: `exact`, `number`, `symbolic`, `schema`, `program` or `task`, or the path
            of a Python file with a function of its name, `Record -> number`.
        beta: Weight of the direction beside the group's reward, >= 0; large values drown the reward.
        share: In (0, 1): the share of an answer's tokens that counts as forks.
        boundary: `forks` takes the share of largest entropies as forks, `rho` all but the share of smallest.
        uniform: This direction at every token instead, 1 towards or -1 away from the informed self: controls.
        decay: Of the informed self's weights, in [0, 1]: 0 takes the current ones, 1 keeps the start.
        clip: Bounds the ratio to the student that wrote the answer, in [0, 1).
        reuse: Optimiser steps that use each round of answers, >= 1.
        rollouts: Answers a prompt, >= 2.
        max_tokens: The longest answer.
        temperature: Of the student's sampling; entropies are at temperature 1 over the whole vocabulary.

    Limits:
        beta=0: rlad_trrd with alpha=1 and anchor_scale=0, which is GRPO.
    """
    if beta < 0 or not 0 < share < 1 or rollouts < 2 or uniform not in (None, -1, 1):
        raise SettingError(
            "dasd_entropy",
            got=f"beta={beta}, share={share}, rollouts={rollouts}, uniform={uniform}",
            expected="beta >= 0, share in (0, 1), 2 or more rollouts and a uniform direction of 1, -1 or none",
            remedy="0.1, 0.2 and 8 are usual.",
        )
    views = {"informed": Told(after="\n\nSolve the problem again.")}
    voices = {"informed": itself("student", decay=decay, sees="informed")}
    signals = {"old": LogProb(), "told": LogProb(Read("informed")), "entropy": Entropy()}
    notes, then = fixed(signals if beta else {"old": LogProb()}, reuse, voices=voices, views=views)
    advantage, watch = ADVANTAGE, WATCHED
    if beta:
        gap = unit_gap(then["told"] - then["old"])
        aimed = towards(gap, then["entropy"], 1 - share if boundary == "forks" else share)
        advantage = ADVANTAGE + beta * (aimed if uniform is None else uniform) * gap
        watch = (*WATCHED, ("away", Below(aimed, 0.0)))
    term = Term("policy", Clipped(advantage, then["old"], clip, clip))
    ask = Ask("student", times=rollouts, max_tokens=max_tokens, temperature=temperature)
    source = graded(ask, verifier, *notes, reuse=reuse)
    return Recipe((Train("train", source, (Update((term,), watch=watch),), voices=voices, views=views),))
