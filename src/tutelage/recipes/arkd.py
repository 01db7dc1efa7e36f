"""A bandit that mixes forward and reverse KL."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.schedule import Linear
from ..core.signal import Constant, Read
from ..core.term import Part, Term, Update
from ..data.source import Corpus
from ..models.controllers import Policy
from ..signals.apply import Apply
from ..signals.bandit import AtFirst, Choice, Chosen, policy_terms
from ..signals.divergences import kl_forward, kl_reverse
from ..signals.gaps import Gap
from ..signals.match import Match
from ..signals.pools import RowMean
from ..signals.readouts import Entropy


@recipe(
    paper="arXiv:2606.29869",
    family="objective",
    formula="w KL(p || q) + (1 - w) KL(q || p), w = sigmoid(z), z ~ N(m(s), spread^2), m rewarded by how much the step "
    "lowers the gaps of head and tail",
    differs=(
        "State, action, reward and update are reconstructed: the abstract and an empty repository were all there is.",
        "One action an answer: every token's reward would depend on all weights.",
        "The state is brought to a fixed scale by tanh(x / 4), not by running moments, so that nothing but the policy "
        "is remembered.",
        "The spread falls on a line; the policy's entropy depends on nothing else, so there is no bonus for it.",
        "Without labels; lengths, batch and rate are the run's.",
    ),
    axes={"writer": "data", "divergence": "forward and reverse KL, mixed by a policy", "gradient": "supervised"},
)
def arkd(
    *,
    share: float | None = None,
    head_mass: float = 0.5,
    head_scale: float = 1.0,
    tail_scale: float = 1.0,
    spread: float = 0.5,
    end_spread: float = 0.1,
    warm_share: float = 0.05,
    policy_rate: float = 100.0,
    trains: str = "answer",
) -> Recipe:
    """Let a small policy choose each answer's mix of forward and reverse KL, and reward it by what the step did there.

    Args:
        share: The weight of the forward KL for every answer, in [0, 1]; none lets the policy choose.
        head_mass: Probability of the teacher's that makes up the head, in (0, 1]; 0.5 as in adaptive KL.
        head_scale: Weight of the head's gap in the reward, >= 0.
        tail_scale: Weight of the tail's gap in the reward, >= 0; both at 1 reward the fall of the total variation.
        spread: Of the actions at the start, > 0.
        end_spread: Of the actions at the end, > 0.
        warm_share: Part of the stage in which both weigh one half and the policy rests, in [0, 1).
        policy_rate: The policy's learning rate over the student's, > 0; 1e-3 in all is usual.
        trains: `answer` trains the answers, `all` the prompts' text as well.

    Limits:
        share=1: forward_kl.
        share=0: reverse_kl.
    """
    if min(head_scale, tail_scale) < 0 or min(spread, end_spread, policy_rate) <= 0 or not 0 <= (share or 0) <= 1:
        got = f"share={share}, scales {head_scale}, {tail_scale}, spreads {spread}, {end_spread}, rate {policy_rate}"
        raise SettingError("arkd", got=got, expected="scales >= 0, spreads and rate > 0", remedy="See the defaults.")
    head, tail = RowMean(Match(Gap(head_mass))), RowMean(Match(Gap(head_mass, tail=True)))
    means = (*map(RowMean, (Match(kl_forward), Match(kl_reverse), Entropy(), Entropy(Read("teacher")))), head, tail)
    state = tuple(AtFirst(Apply("tanh", 0.25 * m)) for m in means)
    choice = Choice("policy", state, Linear(spread, end_spread), warm_share)
    weight = Chosen(choice) if share is None else Constant(share)
    terms = (Term("forward", Match(kl_forward), weight), Term("reverse", Match(kl_reverse), 1 - weight))
    source = Corpus("train", trains=trains)  # type: ignore[arg-type]
    if share is not None:
        return Recipe((Train("train", source, (Update(terms),)),))
    gap = head_scale * head + tail_scale * tail
    before = AtFirst(gap)
    reward = before - gap
    follow = Update(terms, watch=(("share", weight), ("gap", before)))
    learn = Update(policy_terms(choice, reward), ("policy",), learning_rate=policy_rate, watch=(("reward", reward),))
    parts = {"policy": Part(Policy, (("in_features", len(state)),))}
    return Recipe((Train("train", source, (follow, learn), parts=parts),))
