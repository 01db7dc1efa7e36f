"""TIP's choice of tokens, under another divergence."""

from tutelage.core.recipe import Recipe, recipe
from tutelage.core.term import Term, kept, per_token
from tutelage.recipes import base
from tutelage.signals.divergences import Jensen, kl_reverse
from tutelage.signals.match import Match
from tutelage.signals.picks import TopShare
from tutelage.signals.readouts import Entropy
from tutelage.signals.scale import Either, MinMax


@recipe(paper="none", family="mine", formula="JSD(p, q) at the share of positions where the student is unsure or wrong")
def chosen_tokens(*, share: float = 0.2, beta: float = 0.5, max_tokens: int = 128) -> Recipe:
    """Compare by any divergence, at the positions that matter."""
    matters = Either(MinMax(Entropy(), 0.02), MinMax(Match(kl_reverse)))
    term = Term("jensen", Match(Jensen(beta)), weight=TopShare(share, matters), per=kept(per_token))
    return base.on_policy(term, max_tokens=max_tokens, temperature=1.0)
