"""Off-policy, then on-policy."""

from ..core.errors import SettingError
from ..core.recipe import Generate, Recipe, recipe
from ..core.term import Term
from ..data.source import Corpus, Mixture
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
        "Rows of the data may be mixed into the first stage (data_share, 0 by default).",
    ),
    axes={"writer": "teacher, then student", "divergence": "forward, then reverse KL", "gradient": "supervised"},
)
def strong_to_weak(
    *,
    max_tokens: int = 128,
    teacher_temperature: float = 1.0,
    temperature: float = 1.0,
    trains: str = "answer",
    data_share: float = 0.0,
    data: str = "train",
) -> Recipe:
    """Learn from what the teacher writes, then be corrected on what the student writes.

    Args:
        max_tokens: The longest answer, of either model.
        teacher_temperature: Of the teacher's sampling.
        temperature: Of the student's sampling.
        trains: In the first stage: `answer` trains the answers, `all` the prompts' text as well, `whole` all positions.
        data_share: In the first stage, the share of rows with the data's own answers instead of the teacher's.
        data: The data set that these rows come from.

    Limits:
        without the first stage: opd.
        without the second, on the same text: forward_kl.
    """
    if not 0 <= data_share <= 1:
        raise SettingError(
            "strong_to_weak.data_share", got=str(data_share), expected="a share in [0, 1]", remedy="0 is the paper's."
        )
    if data != "train" and not data_share:
        raise SettingError(
            "strong_to_weak.data",
            got=f"data={data!r} with data_share=0",
            expected="a share of rows that come from it",
            remedy="Set data_share, e.g. to 0.5, or leave data out.",
        )
    taught, given = Corpus("answers", trains=trains), Corpus(data, trains=trains)  # type: ignore[arg-type]
    source = Mixture(((taught, 1 - data_share), (given, data_share)), by="row") if data_share else taught
    ask = Ask("teacher", max_tokens=max_tokens, temperature=teacher_temperature)
    written = base.rollouts(max_tokens=max_tokens, temperature=temperature)
    return Recipe(
        (
            Generate("write", "answers", (ask,)),
            base.train(source, Term("kl", Match(kl_forward)), name="imitate"),
            base.train(written, Term("kl", Match(kl_reverse)), name="correct"),
        )
    )
