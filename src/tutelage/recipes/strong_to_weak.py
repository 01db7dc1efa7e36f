"""Off-policy, then on-policy."""

from ..core.recipe import Generate, Recipe, recipe
from ..core.term import Term
from ..data.source import Corpus
from ..data.steps.ask import Ask
from ..signals.divergences import kl_forward, kl_reverse
from ..signals.match import Match
from . import base


@recipe(
    paper="arXiv:2505.09388",
    family="on-policy",
    formula="first KL(p || q) on answers of the teacher, then KL(q || p) on answers of the student",
    differs=(
        "The report distils responses of two thinking modes; the first stage here matches distributions on one.",
        "The report names no divergence for the second stage; reverse KL is taken.",
    ),
    axes={"writer": "teacher, then student", "divergence": "forward, then reverse KL", "gradient": "supervised"},
)
def strong_to_weak(
    *,
    max_tokens: int = 128,
    teacher_temperature: float = 1.0,
    temperature: float = 1.0,
    trains: str = "answer",
    group: int = 1,
) -> Recipe:
    """Learn from what the teacher writes, then be corrected on what the student writes.

    Args:
        max_tokens: The longest answer, of either model.
        teacher_temperature: Of the teacher's sampling.
        temperature: Of the student's sampling.
        trains: In the first stage, `answer` trains the answers and `all` the prompts' text as well.
        group: Answers a prompt in the first stage.

    Limits:
        without the first stage: opd.
        without the second, on the same text: forward_kl.
    """
    ask = Ask("teacher", times=group, max_tokens=max_tokens, temperature=teacher_temperature)
    return Recipe(
        (
            Generate("write", "answers", (ask,)),
            base.train(Corpus("answers", trains=trains), Term("kl", Match(kl_forward)), name="imitate"),  # type: ignore[arg-type]
            base.train(
                base.rollouts(max_tokens=max_tokens, temperature=temperature),
                Term("kl", Match(kl_reverse)),
                name="correct",
            ),
        )
    )
