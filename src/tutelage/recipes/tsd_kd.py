"""Token-selective dual distillation."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, recipe
from ..core.signal import Read, uniform
from ..core.term import Term, kept, per_token
from ..signals.apply import Apply
from ..signals.divergences import Jensen
from ..signals.match import Match, Top
from ..signals.picks import Opening, TopShare
from ..signals.rankings import list_likelihood
from ..signals.readouts import Entropy
from . import base


@recipe(
    paper="arXiv:2603.13260",
    family="token selection",
    formula="mean of g JSD_beta(p, q), g = sigmoid(H(q) - H(p)), + mean of H(q) where it is largest + a mean over the "
    "opening of -log P(p's order of q's top k)",
    differs=(
        "The ranking's denominators run over what is left to choose, as the paper has it; the released code's run over "
        "what was chosen.",
        "`unsure_share` is the described tenth of the largest entropies; the released code takes nine tenths.",
        "The opening is found in each answer by itself; the released code runs through the batch.",
        "Learning rate, schedule and lengths are the run's.",
    ),
    axes={
        "writer": "student",
        "divergence": "Jensen-Shannon, entropy and the teacher's ranking",
        "gradient": "supervised",
    },
)
def tsd_kd(
    *,
    beta: float = 0.9,
    entropy_scale: float = 1.0,
    unsure_share: float = 0.1,
    rank_scale: float = 0.1,
    num_ranked: int = 10,
    opening_share: float = 0.1,
    gated: bool = True,
    max_tokens: int = 128,
    temperature: float = 1.0,
) -> Recipe:
    """Match the teacher where it is surer than the student, and let it rank the student's own first choices.

    Args:
        beta: The teacher's share of the divergence's mixture, in [0, 1]; 1 is KL(q || p).
        entropy_scale: Weight of the student's entropy at its least sure tokens, which is lowered, >= 0.
        unsure_share: Share of a round's tokens that counts as least sure, in (0, 1]; much more than a tenth makes the
            student's answers all alike.
        rank_scale: Weight of the ranking, >= 0.
        num_ranked: The student's most probable tokens that the teacher ranks, >= 2.
        opening_share: The ranking acts on the first tokens of an answer, up to this share of its summed entropy,
            in (0, 1]; on the first token always.
        gated: Weigh the divergence by how much surer the teacher is; without it all tokens weigh alike.
        max_tokens: The longest answer.
        temperature: Of the student's sampling.

    Limits:
        gated=false, entropy_scale=0, rank_scale=0: gkd with student_share=1.
    """
    if num_ranked < 2 or entropy_scale < 0 or rank_scale < 0:
        raise SettingError(
            "tsd_kd",
            got=f"num_ranked={num_ranked}, entropy_scale={entropy_scale}, rank_scale={rank_scale}",
            expected="2 or more ranked tokens and scales >= 0",
            remedy="10, 1 and 0.1 are the paper's.",
        )
    gate = Apply("sigmoid", Entropy() - Entropy(Read("teacher"))) if gated else uniform
    terms = [Term("direct", Match(Jensen(beta)), gate)]
    if entropy_scale:
        terms.append(Term("entropy", Entropy(), TopShare(unsure_share, Entropy()), entropy_scale, kept(per_token)))
    if rank_scale:
        ranking = Match(list_likelihood, on=Top(num_ranked, of="student", rest="drop"))
        terms.append(Term("ranking", ranking, Opening(opening_share, Entropy()), rank_scale, kept(per_token)))
    return base.on_policy(*terms, max_tokens=max_tokens, temperature=temperature)
