"""Trilateral geometry: a small network decides, token by token, how much to trust the teacher."""

from ..core.errors import SettingError
from ..core.recipe import Change, Recipe, Train, recipe
from ..core.signal import Constant, Read, Signal, Still
from ..core.term import Part, Term, Update
from ..data.source import Corpus
from ..models.controllers import Controller
from ..signals.apply import Apply
from ..signals.divergences import Tempered, kl_forward
from ..signals.lookahead import AheadSlope, Decided, OfTarget
from ..signals.match import Match, Targets
from ..signals.picks import Above
from ..signals.readouts import Entropy, LogProb
from ..surgery.token_means import TokenMeans


@recipe(
    paper="arXiv:2312.15112",
    family="objective",
    formula="a T^2 KL(p_T || q_T) + (1 - a) CE, a = f_w(geometry of q, p, y and the mean p of the token); w falls down "
    "the held-out loss after one step of the student",
    differs=(
        "The classes are the next tokens, too many for vectors: the network sees ten numbers, p(y), q(y), the mean of "
        "p(y) over the token's positions, their four squared distances to each other and 1 at y, whether p beats q "
        "there, and both entropies.",
        "How w is trained is reconstructed: the published script gives it no gradient.",
        "The look-ahead is one plain gradient step in the student's head alone, with a rate of its own, and its "
        "gradient is formed in closed form; the student itself moves by the run's optimiser.",
        "The mean over training rows is computed once, before training.",
        "Held-out rows are drawn anew each step, `num_held` of them; figures on them are no longer unseen.",
    ),
    axes={"writer": "data", "divergence": "forward KL and labels, shares learned", "gradient": "supervised"},
)
def tgeo_kd(
    *,
    share: float | None = None,
    temperature: float = 1.5,
    held: str = "held_out",
    num_held: int = 8,
    ahead: float = 0.1,
    controller_rate: float = 100.0,
) -> Recipe:
    """Learn, on held-out rows, how much each token should follow the teacher and how much the data.

    Args:
        share: The teacher's share of every token's loss, in [0, 1]; none learns it.
        temperature: Of the divergence, > 0; 1.5 is the paper's.
        held: The data set that the shares are learned on; none of its rows may be trained on.
        num_held: Rows of it a step, >= 1.
        ahead: Rate of the look-ahead's step in the head, > 0.
        controller_rate: The network's learning rate over the student's, > 0; 1e-2 in all is steady.

    Limits:
        share=1: forward_kl with the same temperature.
        share=0: supervised.
    """
    if controller_rate <= 0 or (share is not None and not 0 <= share <= 1):
        got = f"share={share}, controller_rate={controller_rate}"
        raise SettingError("tgeo_kd", got=got, expected="a share in [0, 1], a rate > 0", remedy="Leave them out.")
    q, p, b = Apply("exp", LogProb()), Apply("exp", LogProb(Read("teacher"))), OfTarget("means")
    apart = ((b - q) ** 2, (1 - q) ** 2, (p - q) ** 2, (1 - p) ** 2)
    seen = (q, p, b, *apart, Above(p - q), Entropy(), Entropy(Read("teacher")))
    trust: Signal = Decided("controller", seen) if share is None else Constant(share)
    terms = (
        Term("soft", Match(Tempered(kl_forward, temperature)), trust),
        Term("hard", Targets(), 1 - trust),
    )
    if share is not None:
        return Recipe((Train("train", Corpus("train"), (Update(terms),)),))
    slope = AheadSlope(trust, held, num_held, temperature, ahead)
    lead = Update((Term("ahead", trust * Still(slope)),), ("controller",), learning_rate=controller_rate)
    parts = {"controller": Part(Controller, (("in_features", len(seen)),))}
    means = Change("means", "means", TokenMeans(p))
    follow = Update(terms, watch=(("share", trust),))
    return Recipe((means, Train("train", Corpus("train"), (lead, follow), parts=parts)))
