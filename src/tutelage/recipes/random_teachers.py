"""Distillation from a network that learnt nothing: the null of every claim about self-distillation."""

from ..core.errors import SettingError
from ..core.recipe import Change, Evaluate, Recipe, Train, recipe
from ..core.signal import Read
from ..core.term import Term, Update
from ..data.source import Corpus
from ..data.steps.features import Features
from ..data.steps.label import Label
from ..evaluation.metrics.probe import Probe
from ..signals.divergences import cross_entropy
from ..signals.match import Match
from ..surgery.fresh import Fresh, Towards


@recipe(
    paper="arXiv:2302.12091",
    family="self-distillation",
    formula="-sum p log q, p a frozen random net; q starts at ((1 - a) theta_p + a theta_new) / sqrt(a^2 + (1-a)^2)",
    differs=(
        "The student's weights are thrown away: it and its teacher are drawn anew from the student's architecture; "
        "the run's teacher is only what the result is compared with.",
        "Models of text predict their next token at every position; the paper's encoders read images under a head of "
        "65,536 outputs, and the initialisation is the architecture's own.",
        "Weights that both draws begin with alike, norms and biases, are not scaled.",
        "The probe is the optimum of a convex problem, not ten epochs of AdamW, and standardises features.",
        "Pruning to lottery tickets and the barrier between two runs are not measured; rate and batch are the run's.",
    ),
    axes={"writer": "data", "divergence": "cross-entropy to a random network", "gradient": "supervised"},
)
def random_teachers(
    *,
    away: float = 0.3,
    data: str = "train",
    label: str = "",
    classes: tuple[str, ...] = (),
    neighbours: int = 20,
) -> Recipe:
    """Distil from a random network, and read what the student's features are worth off a probe.

    Args:
        away: a, in [0, 1], from the teacher's own weights at 0 to an independent draw at 1; at 0 a model without
            batch statistics and dropout stands still.
        data: The data set whose text is read; answers are text like any other.
        label: The field of held-out rows that holds a class; both networks are probed for it. Empty probes nothing.
        classes: With `label`, its values, two or more.
        neighbours: Of the nearest-neighbour probe, >= 1.

    Limits:
        away=0, without batch statistics and dropout: no gradient.
        with the run's teacher for the random one: the gradient of forward_kl on all text.
    """
    if bool(label) != bool(classes) or not 0 <= away <= 1:
        raise SettingError(
            "random_teachers",
            got=f"away={away}, label={label!r}, classes={classes}",
            expected="away in [0, 1], and classes with a label or neither",
            remedy="away=0.3 without a label trains and probes nothing.",
        )
    made = Change("draw", "random", Fresh("student", "teacher"))
    start = Change("start", "student", Towards("random", away, "student"))
    term = Term("soft", Match(cross_entropy, p=Read("random")))
    train = Train("train", Corpus(data, trains="all"), (Update((term,)),))
    systems = {who: (Label(label, classes), Features(who)) for who in ("random", "student")} if label else {}
    probe = (Evaluate("probe", systems, {"probe": Probe(k=neighbours)}),) if label else ()
    return Recipe((made, start, train, *probe))
