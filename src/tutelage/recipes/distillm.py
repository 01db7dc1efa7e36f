"""Skewed KL with replayed student answers, more of them when validation gets worse."""

from ..core.errors import SettingError
from ..core.feedback import Ratchet
from ..core.recipe import Recipe, recipe
from ..core.schedule import Complement, Linear
from ..core.term import Term
from ..data.gauge import Gauge, Gauged
from ..data.live import Replay
from ..data.source import Corpus, Mixture
from ..signals.divergences import SkewedForward, SkewedReverse
from ..signals.match import Match, Targets
from . import base


@recipe(
    paper="arXiv:2402.03898",
    family="on-policy",
    formula="(1 - label_share) KL(q || alpha q + (1 - alpha) p) + label_share CE(y, q), or the forward twin, on data "
    "or, in a share phi of the steps, on answers of the student, new ones or replayed",
    differs=(
        "A coin a row says whether an old answer is replayed, the code's a step; the chance t/T is the same.",
        "Old answers may come back as soon as there are any; the code first fills its memory.",
        "phi looks at the validation loss every `every` steps; the code looks once an epoch.",
        "The loss on a pre-training corpus beside the distillation is left out.",
    ),
    axes={"writer": "data, student, replay", "divergence": "skewed KL", "gradient": "supervised"},
)
def distillm(
    *,
    alpha: float = 0.1,
    reverse: bool = True,
    label_share: float = 0.0,
    start: float = 0.0,
    margin: float = 0.1,
    every: int = 100,
    capacity: int = 1000,
    held: str = "held_out",
    max_tokens: int = 256,
) -> Recipe:
    """Match the teacher by a skewed KL, turning to the student's own answers only where data alone no longer helps.

    Args:
        alpha: Share of the first side in the second, in [0, 1); 0.1 keeps gradients bounded and is the paper's.
        reverse: KL from the student's side; false takes the teacher's.
        label_share: Share of the cross-entropy with the tokens that are there, in [0, 1].
        start: phi at the first step, in [0, 1]: the chance that a step uses answers of the student.
        margin: phi rises by 0.1 when the loss on the validation data is so many nats above its mark, >= 0.
        every: Steps between two looks at the validation data, >= 1.
        capacity: Answers that are kept for replay, >= 1; the code keeps 1000.
        held: The validation data set; its rows must not be in `train`.
        max_tokens: The student's longest answer.

    Limits:
        alpha=0, start=0, in the first step: reverse_kl.
        alpha=0, reverse=false, start=0, in the first step: forward_kl.
        alpha=0, start=1, in the first step: opd.
    """
    if not 0 <= label_share <= 1:
        raise SettingError(
            "distillm.label_share", got=str(label_share), expected="a share in [0, 1]", remedy="The paper's is 0."
        )
    phi = Ratchet(held, start, 0.1, margin)
    own = Replay(base.rollouts(max_tokens=max_tokens, temperature=1.0), capacity, Linear(0.0, 1.0))
    mixed = Mixture(((own, phi), (Corpus("train"), Complement(phi))))
    source = Gauged(mixed, Gauge(Targets(), (Corpus(held),)), (phi,), every)
    terms = [Term("kl", Match((SkewedReverse if reverse else SkewedForward)(alpha)), scale=1 - label_share)]
    if label_share:
        terms.append(Term("labels", Targets(), scale=label_share))
    return Recipe((base.train(source, *terms),))
