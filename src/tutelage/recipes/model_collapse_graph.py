"""Generations that train on what they wrote themselves, with real data, if the graph of who learns from whom allows."""

from ..core.errors import SettingError
from ..core.recipe import Evaluate, Generate, Recipe, Repeat, recipe
from ..core.term import Term
from ..data.source import Corpus, Mixture
from ..data.steps.ask import Ask
from ..evaluation.lineage import bounded
from ..signals.match import Targets
from . import base


@recipe(
    paper="arXiv:2605.20151",
    family="theory",
    formula="-log q(y), y from the last generation's q or, with probability r, real; S <- W S W^T + D bounded "
    "iff real data reaches every model",
    differs=(
        "The condition on the graph is reconstructed: of the paper the abstract was read; simulations agree with it.",
        "Each generation replaces the last one's text and goes on from its weights; nothing is accumulated.",
        "A language model's error is no linear regression's: the verdict carries over, the predicted constants do not.",
        "Real data are the rows of `train`, the same in every generation, so the source of real data is finite.",
    ),
    axes={"writer": "student and data", "divergence": "cross-entropy with labels", "gradient": "supervised"},
)
def model_collapse_graph(
    *,
    generations: int = 3,
    real_share: float = 0.2,
    allow_collapse: bool = False,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Train generation after generation on one's own text, with real data among it; refuse where there is none.

    Args:
        generations: How often the student writes and learns, >= 1; the run's steps are of one generation.
        real_share: r, the probability that a row is real, in [0, 1].
        allow_collapse: Run even if the graph says that errors will add up without bound.
        max_tokens: The longest answer.
        temperature: Of the student's sampling; below 1 it loses variety faster than the theory says.

    Limits:
        real_share=1: supervised.
        real_share=0, allow_collapse=true: the first generation is supervised on its own answers.
    """
    if generations < 1 or not 0 <= real_share <= 1:
        raise SettingError(
            "model_collapse_graph",
            got=f"generations={generations}, real_share={real_share}",
            expected="1 generation or more, and a share in [0, 1]",
            remedy="3 and 0.2 are usual.",
        )
    write = Generate("write", "own", (Ask("student", max_tokens=max_tokens, temperature=temperature),))
    rows = Mixture(((Corpus("own"), 1 - real_share), (Corpus("train"), real_share)), by="row")
    learn = base.train(rows, Term("labels", Targets()))
    made = Recipe((Repeat("generation", (write, learn, Evaluate("distance")), generations),))
    return made if allow_collapse else bounded(made)
