"""Answers chosen by where their sentences come from."""

from typing import Literal

from ..core.errors import SettingError
from ..core.recipe import Change, Evaluate, Generate, Recipe, recipe
from ..core.term import Term
from ..data.credit import Margins
from ..data.source import Corpus
from ..data.steps.ask import Ask
from ..data.steps.credit import Against, Credit
from ..data.steps.pick import Best
from ..evaluation.provenance import Profiles
from ..signals.grades.grade import Grade, find
from ..signals.match import Targets
from ..surgery.copy import Copy
from . import base


@recipe(
    paper="arXiv:2512.20908",
    family="data",
    formula="CE(y*, q), y* the candidate with most sentences s for which p_T(s) - p_S(s) > beta, p a geometric mean",
    differs=(
        "The teacher answers here; the paper picks among answers of published data sets. 4 candidates, 128 tokens each "
        "and temperature 1 are reconstructed.",
        "How beta adapts is reconstructed: Otsu's threshold of |p_T - p_S| over all candidates of a question, kept "
        "within 0.05 and 0.15. alpha = 0.05 is reconstructed.",
        "How a text is cut into sentences is reconstructed; each line ends one. A sentence in which a model begins no "
        "token is joined to the one before it.",
        "The share of a class at position j is one of the answers that have a j-th sentence; the paper does not say.",
    ),
    axes={"writer": "teacher, chosen", "divergence": "forward KL, one sample", "gradient": "supervised"},
)
def provenance_tracing(
    *,
    candidates: int = 4,
    beta: float = 0.1,
    adaptive_beta: bool = False,
    by: Literal["from_teacher", "teacher_share", "length"] = "from_teacher",
    trace: bool = True,
    verifier: str = "",
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Train on the answer, of several by the teacher, with most sentences that the student would not have said.

    Args:
        candidates: Answers of the teacher to each question, at least 1; one of them is trained on.
        beta: How much more probable a sentence must be to the teacher to be its own, in [0.05, 1); the paper's is 0.1.
        adaptive_beta: Find beta among the candidates of each question instead.
        by: What decides: `from_teacher`, the number of the teacher's sentences, as in the paper; its two controls
            are `teacher_share`, their share, and `length`, the answer's, in characters.
        trace: After training, credit what the student writes to held-out questions to teacher, student and their
            starting point; takes a copy of the starting student.
        verifier: What tells right from wrong answers in that: a name (`number`, `exact` ...) or a Python file; empty
            takes all together.
        max_tokens: The longest answer.
        temperature: Of the teacher's sampling.

    Limits:
        candidates=1: seqkd at the same temperature.
    """
    if adaptive_beta and beta != 0.1:
        raise SettingError(
            "provenance_tracing.beta",
            got=f"{beta} with adaptive_beta",
            expected="one of the two",
            remedy="Leave one out.",
        )
    margins = Margins(beta=None if adaptive_beta else beta)
    write = Ask("teacher", times=candidates, max_tokens=max_tokens, temperature=temperature)
    choice = Against(Best(1, by), Best(1, "from_teacher" if by == "length" else "length"))
    steps = (write, Credit(margins=margins), *((choice,) if candidates > 1 else ()))
    train = (Generate("choose", "chosen", steps), base.train(Corpus("chosen"), Term("labels", Targets())))
    if not trace:
        return Recipe(train)
    graded = (Grade(find(verifier)),) if verifier else ()
    credit = Credit(student="start", distilled="student", margins=margins)
    system = (Ask("student", max_tokens=max_tokens, temperature=0.0), *graded, credit)
    traced = Evaluate("trace", {"student": system}, {"provenance": Profiles("right" if verifier else "")})
    return Recipe((*train[:1], Change("keep", "start", Copy("student")), *train[1:], traced))
