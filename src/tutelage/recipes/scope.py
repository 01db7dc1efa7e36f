"""Dual-path distillation by correctness."""

from typing import Literal

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Noted, Read, Still
from ..core.term import Term, Update, kept, per_token
from ..data.live import Live
from ..data.steps.ask import Ask
from ..signals.grades import Grade, find
from ..signals.match import Targets
from ..signals.picks import Above, Below
from ..signals.policy import K3, ScoreFunction
from ..signals.pools import Alike, RowMean
from ..signals.readouts import LogProb, gap
from ..signals.scale import GroupSoftmax

RIGHT = Noted("right", "rows")


@recipe(
    paper="arXiv:2604.10688",
    family="on-policy",
    formula="mean over tokens of right answers of w_S(-log q(y)) + mean over tokens of wrong ones of w_T k3(q, p)",
    differs=(
        "The signs of the weights follow the paper; the public code's flag for the student gives the reverse.",
        "k3 is bounded at a log-ratio of 10 in size, where its gradient would otherwise grow without bound.",
        "The top-k reverse KL, a third choice of the code for wrong answers, is not there.",
        "An answer that its length cut off counts as wrong.",
    ),
    axes={"writer": "student", "divergence": "reverse KL, sampled, on wrong answers", "gradient": "supervised"},
)
def scope(
    *,
    verifier: str = "number",
    correction: Literal["k3", "score"] = "k3",
    weight_temperature: float = 1.0,
    student_sign: int = 1,
    teacher_sign: int = -1,
    rollouts: int = 8,
    max_tokens: int = 128,
    temperature: float = 0.6,
) -> Recipe:
    """Keep what the student got right, the more the less usual; on what it got wrong, follow the teacher.

    A wrong answer weighs more the likelier the teacher finds it: there its advice can be trusted.

    Args:
        verifier: What says right or wrong: `exact`, `number`, `symbolic`, `schema`, `program` or `task`, or the path
            of a Python file with a function of its name, `Record -> number`; above 0.5 is right.
        correction: On wrong answers `k3` minimises that estimate of KL(q || p), `score` is a policy gradient whose
            advantage is the log-ratio.
        weight_temperature: Of the softmax of mean negative log-likelihoods within a group, > 0; large values weigh all
            answers alike.
        student_sign: 1 gives right answers that the student finds unlikely more weight (the paper), -1 less.
        teacher_sign: -1 gives wrong answers that the teacher finds likely more weight (the paper), 1 less.
        rollouts: Answers a prompt; the paper's are 8.
        max_tokens: The longest answer.
        temperature: Of the student's sampling.

    Limits:
        every answer wrong and as likely to the teacher, correction=score: the expected gradient is that of opd.
        every answer right and as likely to the student: supervised on its own answers.
    """
    if student_sign not in (-1, 1) or teacher_sign not in (-1, 1):
        raise SettingError(
            "scope", got=f"signs {student_sign} and {teacher_sign}", expected="1 or -1", remedy="The paper's: 1, -1."
        )
    right, wrong = Above(RIGHT, 0.5), Below(RIGHT, 0.5)
    rare = GroupSoftmax(student_sign * RowMean(-Noted("log_prob")), right, weight_temperature)
    sound = GroupSoftmax(teacher_sign * RowMean(-LogProb(Read("teacher"))), wrong, weight_temperature)
    correct = {"k3": Still(sound) * K3(), "score": ScoreFunction(sound * gap())}[correction]
    terms = (
        Term("own", Still(rare) * Targets(), weight=right, per=kept(per_token)),
        Term("correction", correct, weight=wrong, per=kept(per_token)),
    )
    ask = Ask("student", times=rollouts, max_tokens=max_tokens, temperature=temperature)
    watch = (("right", RIGHT), ("all alike", Alike(RIGHT)))
    return Recipe((Train("train", Live(ask, Grade(find(verifier)), prompts="train"), (Update(terms, watch=watch),)),))
