"""Contrastive skewed KL: one direction for the teacher's text, the other for the student's."""

from ..core.errors import SettingError
from ..core.feedback import Last
from ..core.recipe import Generate, Recipe, Repeat, Train, recipe
from ..core.schedule import Linear
from ..core.signal import Constant, Noted
from ..core.term import Term, Update, kept, per_token
from ..data.source import Beside, Corpus
from ..data.steps.ask import Ask
from ..data.steps.note import Note
from ..signals.pools import RowMean
from ..signals.readouts import gap
from ..signals.skew import Anchored, Skewed


@recipe(
    paper="arXiv:2503.07067",
    family="on-policy",
    formula="(2 - b) KL(p || a p + (1 - a) q) on answers of the teacher + b KL(q || a q + (1 - a) p) on answers of the "
    "student, a = clip(1 - anchor / x, least, alpha), x a record's mean log-ratio",
    differs=(
        "x is the mean of log p/q over a record's tokens; the code takes the difference of the geometric means.",
        "The anchor is (1 - alpha) times the mean of x over all rows of the step before, of either direction; where "
        "the code takes its mean from was not read (reconstructed). In the first step every record has the skew alpha.",
        "Every epoch begins with a new optimiser and a new learning-rate schedule, as separate runs of the code do.",
        "All weights train; the paper's runs train low-rank adapters.",
    ),
    axes={"writer": "teacher and student", "divergence": "skewed KL, by writer", "gradient": "supervised"},
)
def distillm_2(
    *,
    alpha: float = 0.1,
    least: float = 0.01,
    student_scale: float = 1.0,
    final_student_scale: float = 1.0,
    epochs: int = 3,
    max_tokens: int = 256,
    temperature: float = 1.0,
) -> Recipe:
    """Raise what the teacher writes and lower what the student writes: to each writer of an answer its divergence.

    Args:
        alpha: The largest skew, in [least, 1); 0.1 is the paper's.
        least: The smallest skew, in [0, alpha].
        student_scale: b at an epoch's first step, in [0, 2]: the weight of the student's text; the teacher's has 2 - b.
        final_student_scale: b at its end, in [0, 2]; the paper's ramp ends at 1.5.
        epochs: How often the student writes anew and trains, >= 1.
        max_tokens: The longest answer, of either.
        temperature: Of the sampling, of either.

    Limits:
        alpha=0, least=0, student_scale=0, final_student_scale=0: twice forward_kl on answers of the teacher.
        alpha=0, least=0, student_scale=2, final_student_scale=2: twice reverse_kl on answers of the student.
    """
    if not (0 <= student_scale <= 2 and 0 <= final_student_scale <= 2) or epochs < 1:
        raise SettingError(
            "distillm_2",
            got=f"student_scale={student_scale}, final_student_scale={final_student_scale}, epochs={epochs}",
            expected="scales in [0, 2] and an epoch or more",
            remedy="1, 1 and 3 weigh both writers the same, three times.",
        )
    answers = {"max_tokens": max_tokens, "temperature": temperature}
    taught = Noted("taught")
    excess, anchor = RowMean(gap()), Last("excess", 1 - alpha)
    signs = RowMean(2 * taught - 1)
    terms = (
        Term("teacher_text", Skewed(Anchored(excess, anchor, least, alpha)), taught,
             Linear(2 - student_scale, 2 - final_student_scale), kept(per_token)),
        Term("student_text", Skewed(Anchored(-excess, anchor, least, alpha), reverse=True), 1 - taught,
             Linear(student_scale, final_student_scale), kept(per_token)),
    )  # fmt: skip
    pairs = Beside((Corpus("answers"), Corpus("own", order="answers")))
    epoch = (
        Generate("answer", "own", (Ask("student", **answers), Note("taught", Constant(0.0)))),
        Train("train", pairs, (Update(terms, watch=(("excess", signs * excess),)),)),
    )
    write = Generate("write", "answers", (Ask("teacher", **answers), Note("taught", Constant(1.0))))
    return Recipe((write, Repeat("epochs", epoch, epochs)))
