"""Cross-entropy with the data: no teacher."""

from ..core.recipe import Recipe, recipe
from ..core.term import Term
from ..signals.match import Targets
from . import base


@recipe(
    paper="none",
    family="baselines",
    formula="CE(y, q), a mean over trained positions",
    axes={"writer": "data", "divergence": "none", "gradient": "supervised"},
)
def supervised(*, trains: str = "answer") -> Recipe:
    """Fine-tune on the data's own tokens: the baseline that every distillation has to beat.

    Args:
        trains: `answer` trains the answers, `all` the prompts' text as well.

    Limits:
        on text that the teacher wrote: seqkd.
    """
    return base.offline(Term("labels", Targets()), trains=trains)
