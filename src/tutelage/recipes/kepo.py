"""Group rewards with gated distillation, and hints where every answer failed."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Still
from ..core.term import Term, Update, kept, per_row, per_token
from ..data.live import Live
from ..data.steps.ask import Ask
from ..data.steps.hints import by_hint
from ..data.steps.rescue import RESCUED, AtMost
from ..signals.divergences import Jensen
from ..signals.grades.reward import RIGHT, rewarded
from ..signals.match import Match
from ..signals.picks import Below
from ..signals.policy import Clipped
from ..signals.pools import Alike, GroupNorm
from ..signals.readouts import LogProb


@recipe(
    paper="arXiv:2602.00400",
    family="on-policy",
    formula="-r A, r = q(y) / its value, A a group's reward R + scale D_beta(p, q) where R >= tau, R = right + form",
    differs=(
        "Hints come where no answer is right (reconstructed), in the code where right + form is 0: `trigger_on_total`.",
        "Without a rule for the form the reward is rightness alone; an answer that its length cut off is not right.",
        "Texts only, no images; the hint's wording is this project's, and answers that mention a hint are not put in.",
        "The divergence to the initial student, weight 0 in the paper, is not there; lengths and batch are the run's.",
    ),
    axes={"writer": "student, hinted where it fails", "divergence": "Jensen-Shannon, gated", "gradient": "policy"},
)
def kepo(
    *,
    verifier: str = "number",
    form: str = "",
    tau: float | None = 1.0,
    gate_on_right: bool = False,
    scale: float = 1.0,
    hinter: str = "teacher",
    injected: int = 2,
    tries: int = 5,
    trigger_on_total: bool = False,
    rollouts: int = 8,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Reward right answers, follow the teacher only on answers worth it, and ask for a hint where all of a group fail.

    What the student writes with the hint is learnt as an answer to the prompt without it.

    Args:
        verifier: What says right or wrong: `exact`, `number`, `symbolic`, `schema`, `program` or `task`, or the path
            of a Python file with a function of its name, `Record -> number`.
        form: What says whether an answer has the form asked for, as for `verifier`; empty rewards rightness alone.
        tau: The least reward of answers that are distilled on; none leaves the distillation out. With a form, a
            wrong answer of the right form passes at 1.
        gate_on_right: Gate by rightness alone.
        scale: Weight of the distillation, >= 0.
        hinter: The slot that writes the hint, told the reference: the teacher, or the student itself.
        injected: Right answers put into a group that failed, at most, from 0 (no hints) to `rollouts`.
        tries: Times that the student is asked with the hint, `injected` answers each, >= 1.
        trigger_on_total: Ask for a hint only where rightness and form of all answers are 0.
        rollouts: Answers a prompt, >= 2.
        max_tokens: The longest answer, and the longest hint.
        temperature: Of the sampling.

    Limits:
        tau=None and injected=0: GRPO, whatever the teacher.
        tau=-infinity and injected=0: GRPO and jensen on every answer.
    """
    if scale < 0 or rollouts < 2 or not 0 <= injected <= rollouts or tries < 1:
        raise SettingError(
            "kepo",
            got=f"scale={scale}, rollouts={rollouts}, injected={injected}, tries={tries}",
            expected="scale >= 0, 2 or more rollouts, as many injected at most, tries >= 1",
            remedy="1, 8, 2 and 5 are the paper's.",
        )
    grades, total = rewarded(verifier, form)
    terms = [Term("policy", Clipped(GroupNorm(total, epsilon=1e-4), Still(LogProb())), per=per_row)]
    if tau is not None:
        worth = Below(-(RIGHT if gate_on_right else total), -tau)
        terms.append(Term("jensen", Match(Jensen(0.5)), worth, scale, kept(per_token)))
    ask = Ask("student", times=rollouts, max_tokens=max_tokens, temperature=temperature)
    failed = AtMost(("right", "form") if form else ("right",), 0.0) if trigger_on_total else AtMost()
    hints = by_hint(hinter, ask, *grades, tries=tries, most=injected or 1, failed=failed)
    source = Live(ask, *grades, *((hints,) if injected else ()), prompts="train")
    watch = (("right", RIGHT), ("all alike", Alike(total)), *((("rescued", RESCUED),) if injected else ()))
    return Recipe((Train("train", source, (Update(tuple(terms), watch=watch),)),))
