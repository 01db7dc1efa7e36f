"""Sequence-level distillation."""

from ..core.recipe import Recipe, recipe
from ..core.term import Term
from ..data.source import Corpus
from ..signals.match import Targets
from . import base


@recipe(
    paper="arXiv:1606.07947",
    family="on-policy",
    formula="CE(y, q) with y written by the teacher, a mean over trained positions",
    differs=("Samples or greedy answers instead of beam search.",),
    axes={"writer": "teacher", "divergence": "forward KL, one sample", "gradient": "supervised"},
)
def seqkd(*, max_tokens: int = 128, temperature: float = 0.0) -> Recipe:
    """Fine-tune on answers that the teacher wrote; only its text is needed.

    Args:
        max_tokens: The longest answer.
        temperature: The teacher's; 0 writes the most probable token, as the paper's beam search nearly does.

    Limits:
        temperature=1 and many answers: the expected gradient is that of forward_kl on teacher text.
    """
    return Recipe(
        (
            base.write(max_tokens=max_tokens, temperature=temperature),
            base.train(Corpus("answers"), Term("labels", Targets())),
        )
    )
