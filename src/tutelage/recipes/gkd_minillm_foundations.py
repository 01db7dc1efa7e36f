"""The classic objectives: who writes, which divergence compares, and what the gradient goes through."""

from typing import Literal

from ..core.errors import SettingError
from ..core.recipe import Recipe, recipe
from ..core.term import Term
from ..data.live import Live
from ..data.source import Corpus, Mixture
from ..data.steps.ask import Ask
from ..data.steps.note import Note
from ..signals.estimators import estimated
from ..signals.policy import ScoreFunction
from ..signals.returns import ADVANTAGE, to_go
from . import base


@recipe(
    paper="arXiv:2306.13649, 2306.08543, 2402.03898, 2503.07067, 2009.07253, 1606.07947",
    family="on-policy",
    formula="D(p, q) on answers that student, teacher or data wrote; surrogate=policy adds -A log q(y), A the whitened "
    "mean log-ratio of the tokens that follow",
    differs=(
        "One composition for six works; what each adds (ramps, replay, text, tuned skews) is in its own recipe.",
        "A step draws one writer; labels, loss temperatures and teacher-mixed tokens are in those recipes too.",
    ),
    axes={"writer": "student, teacher or data", "divergence": "by name", "gradient": "supervised"},
)
def gkd_minillm_foundations(
    *,
    student_share: float = 0.5,
    teacher_share: float = 0.0,
    divergence: Literal["forward", "reverse", "jensen", "skewed_forward", "skewed_reverse"] = "jensen",
    beta: float = 0.5,
    alpha: float = 0.1,
    estimator: Literal["full", "tail", "partial", "renormalised", "sampled"] = "full",
    num_kept: int = 64,
    surrogate: Literal["supervised", "policy"] = "supervised",
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Compose a classic distillation from its three choices; most on-policy recipes add one part to one of these.

    Args:
        student_share: Share of the steps on answers of the student, in [0, 1].
        teacher_share: Share of them on answers that the teacher wrote beforehand; the rest are the data's own.
        divergence: `forward` is KL(p || q), `reverse` KL(q || p); the skewed ones mix a share of the first side into
            the second.
        beta: The teacher's share in the mixture of `jensen`, in [0, 1].
        alpha: The share of the skewed ones, in [0, 1).
        estimator: `full` sums all tokens of the vocabulary, the others the teacher's `num_kept`: `tail` keeps the rest
            as one, `renormalised` forgets it, `partial` leaves it out (no divergence any more); `sampled` takes the
            token that is there, for `forward` and `reverse`.
        num_kept: k, >= 1.
        surrogate: `policy` also makes each token answer for those that follow it, where the student alone writes and
            the divergence is `reverse`.
        max_tokens: The longest answer.
        temperature: Of what is written.

    Limits:
        student_share=1: gkd with student_share=1.
        student_share=0: gkd with student_share=0.
        teacher_share=1, divergence=forward, estimator=sampled: seqkd.
        student_share=1, divergence=skewed_reverse: distillm with start=1, in the first step.
        student_share=1, divergence=forward: the gradient of imitkd with no data and whole=true.
        student_share=1, divergence=reverse, estimator=sampled: the expected gradient of opd.
        student_share=1, divergence=reverse, surrogate=policy: minillm with teacher_share=0, reuse=1, text_scale=0.
    """
    follows = surrogate == "policy"
    shares = min(student_share, teacher_share) >= 0 and student_share + teacher_share <= 1
    if not shares or (follows and (divergence != "reverse" or student_share != 1)):
        raise SettingError(
            "gkd_minillm_foundations",
            got=f"{divergence}, {surrogate}, shares {student_share} and {teacher_share}",
            expected="shares that add up to 1 at most; for policy: reverse and student_share=1",
            remedy="Change one of them.",
        )
    terms = [Term("kl", estimated(divergence, estimator, k=num_kept, beta=beta, alpha=alpha))]
    terms += [Term("policy", ScoreFunction(ADVANTAGE))] if follows else []
    ask = Ask("student", max_tokens=max_tokens, temperature=temperature)
    live = Live(ask, *([Note("advantage", to_go())] if follows else []), prompts="train")
    data_share = 1 - student_share - teacher_share
    parts = ((live, student_share), (Corpus("answers"), teacher_share), (Corpus("train"), data_share))
    used = tuple(part for part in parts if part[1] > 0)
    write = [base.write(max_tokens=max_tokens, temperature=temperature)] if teacher_share else []
    return Recipe((*write, base.train(Mixture(used), *terms)))
