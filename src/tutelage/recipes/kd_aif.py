"""Distillation with rows weighed by their influence on held-out loss."""

from typing import Literal

from ..core.errors import unknown
from ..core.recipe import Change, Generate, Recipe, recipe
from ..core.signal import Noted
from ..core.term import Term
from ..data.source import Corpus
from ..data.steps.influence import WEIGHINGS, Weigh
from ..signals.divergences import Tempered, kl_forward
from ..signals.match import Match
from ..surgery.copy import Copy
from ..surgery.influence import Influence
from . import base


@recipe(
    paper="arXiv:2501.02705",
    family="data",
    formula="w T^2 KL(p_T || q_T), w = 2 sigmoid(b / std b) over its mean, b = g_held^T (H + damping)^-1 g_row",
    differs=(
        "Gradients and Hessian are in the student's head alone, as if it were not tied to the embeddings; the paper's "
        "are in the whole network. The Hessian is exact there, and solved with conjugate gradients, not LiSSA.",
        "The loss of g_row and H is the distillation loss that is trained; the released code takes cross-entropy.",
        "The sigmoid form is reconstructed from a summary; `exp` is the released code's, clipped at percentiles 1 and "
        "99 and with the sign that gives helpful rows more.",
        "A row's benefit is a mean over its trained positions, so that length alone gives no weight.",
        "H is a mean over `positions` trained positions, spread evenly over the data.",
        "Weights are found once, by a first student, and a second one starts afresh; periodic and simultaneous "
        "updates, a weighted teacher and unlabelled rows are not there.",
        "The divergence is multiplied by T^2; T is 7 and not scaled in the released code.",
    ),
    axes={"writer": "data weighed by influence", "divergence": "forward KL", "gradient": "supervised"},
)
def kd_aif(
    *,
    weighing: Literal["sigmoid", "exp", "none"] = "sigmoid",
    held: str = "held_out",
    temperature: float = 1.0,
    damping: float = 0.01,
    iterations: int = 10,
    positions: int = 1024,
    restart: bool = True,
) -> Recipe:
    """Train once, ask of each row what it does to the loss on held-out rows, and train again with more of what helps.

    Args:
        weighing: How a benefit becomes a weight: `sigmoid` is the paper's, `exp` the released code's; `none` trains
            once, all rows alike.
        held: The data set whose loss is to fall; its rows may not be trained on, and figures on it are no longer
            unseen.
        temperature: Of the divergence, > 0.
        damping: Added to the Hessian, > 0; 0.01 is the released code's.
        iterations: Of the solver, >= 1.
        positions: Trained positions that make up the Hessian, >= 1; each costs three products with the head an
            iteration.
        restart: Begin the weighed training with the student as it was at first; else go on.

    Limits:
        weighing=none: forward_kl with the same temperature.
    """
    match = Match(Tempered(kl_forward, temperature))
    plain = base.train(Corpus("train"), Term("kl", match))
    if weighing not in (*WEIGHINGS, "none"):
        raise unknown("kd_aif.weighing", weighing, (*WEIGHINGS, "none"))
    if weighing == "none":
        return Recipe((plain,))
    influence = Influence("train", held, weighing, temperature, damping, iterations, positions)
    weigh = Generate("weigh", "weighed", (Weigh("influence", weighing, temperature),))
    weighed = base.train(Corpus("weighed"), Term("kl", match, Noted("weight", "rows")))
    first = base.train(Corpus("train"), Term("kl", match), name="first")
    keep = (Change("keep", "start", Copy("student")),) * restart
    again = (Change("again", "student", Copy("start")),) * restart
    return Recipe((*keep, first, Change("influence", "influence", influence), weigh, *again, weighed))
