"""On-policy self-distillation from a self that reads how other answers to the prompt fared."""

from typing import Literal

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Read
from ..core.term import Term, Update, kept, per_token
from ..data.live import Live
from ..data.steps.ask import Ask
from ..data.steps.note import fixed
from ..data.steps.peers import INFORMED, Peers, TellPeers
from ..signals.divergences import Jensen
from ..signals.grades.reward import RIGHT, rewarded
from ..signals.importance import Ratio
from ..signals.match import Match, Top, whole
from ..signals.pools import Alike
from ..signals.readouts import LogProb
from ..voices.itself import Ema
from ..voices.says import Says


@recipe(
    paper="arXiv:2605.12652",
    family="self-distillation",
    formula="min(q(y) / q_old(y), cap) D_beta(p, q) on the top k and the rest, p the student's average, told its peers",
    differs=(
        "The wording around peers is this project's; each is cut to 4,000 characters, not the prompt to 10,240 tokens.",
        "The teacher that mixes the first and the current logits and the sampled-token loss are not there.",
        "An answer that its length cut off counts as wrong; lengths and batch are the run's.",
    ),
    axes={"writer": "student", "divergence": "Jensen-Shannon on the student's top k", "gradient": "supervised"},
)
def mopd(
    *,
    verifier: str = "number",
    right_peers: int = 2,
    wrong_peers: int = 1,
    always_wrong: bool = True,
    beta: float = 0.5,
    num_kept: int | None = 100,
    kept_of: Literal["student", "teacher"] = "student",
    rate: float | None = 0.05,
    cap: float = 2.0,
    reuse: int = 1,
    rollouts: int = 8,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """A moving average of the student that is shown right and wrong answers of the same prompt teaches the student.

    Which answers were right is known to the teacher alone; each token of every answer gets its advice.

    Args:
        verifier: What says right or wrong: `exact`, `number`, `symbolic`, `schema`, `program` or `task`, or the path
            of a Python file with a function of its name, `Record -> number`; 1 or more is right.
        right_peers: Right answers that the teacher is shown at most, never the answer's own, >= 0.
        wrong_peers: Wrong ones, 0 or 1.
        always_wrong: Show the wrong one also beside right ones.
        beta: The teacher's share of the mixture, in [0, 1]: 0 is KL(p || q), 1 is KL(q || p).
        num_kept: Tokens of the vocabulary that are compared, all others as one; none compares each.
        kept_of: Whose most probable tokens these are.
        rate: Of the average that teaches, in (0, 1]: 1 is the student as it is; none has the run's teacher read.
        cap: The largest importance weight, > 0.
        reuse: Optimiser steps that use each round of answers, >= 1; with 1 all importance weights are 1.
        rollouts: Answers a prompt, >= 2.
        max_tokens: The longest answer.
        temperature: Of the student's sampling.

    Limits:
        nothing told and rate=1: the loss and its gradient are 0.
        every answer told the same as the reference of opsd, rate=1, num_kept=None: opsd with decay=0.
    """
    if rollouts < 2 or not 0 <= beta <= 1:
        raise SettingError(
            "mopd", got=f"rollouts={rollouts}, beta={beta}", expected="2 or more, in [0, 1]", remedy="8, 0.5."
        )
    (grades, _), (notes, then) = rewarded(verifier), fixed({"old": LogProb()}, reuse)
    on = whole if num_kept is None else Top(num_kept, of=kept_of)
    match = Match(Jensen(beta), p=Read("informed"), on=on)
    ratio = Ratio(LogProb(), then["old"], cap)
    term = Term("peers", match, weight=INFORMED * ratio, per=kept(per_token))
    informed = Says("teacher", "peers") if rate is None else Ema("student", rate, "peers")
    ask = Ask("student", times=rollouts, max_tokens=max_tokens, temperature=temperature)
    peers = Peers(right_peers, wrong_peers, always=always_wrong)
    watch = (("right", RIGHT), ("all alike", Alike(RIGHT)), ("informed", INFORMED), ("ratio", ratio))
    source = Live(ask, *grades, peers, *notes, prompts="train", reuse=reuse)
    voices, views = {"informed": informed}, {"peers": TellPeers()}
    return Recipe((Train("train", source, (Update((term,), watch=watch),), voices=voices, views=views),))
