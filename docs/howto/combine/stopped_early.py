"""KAT's stopping rule, in front of a policy gradient."""

from tutelage.core.recipe import Recipe, recipe
from tutelage.core.term import Term
from tutelage.data.live import Live
from tutelage.data.settled import Lows, Settled
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.note import Note
from tutelage.data.steps.stretches import Stretches
from tutelage.recipes import base
from tutelage.signals.divergences import kl_reverse
from tutelage.signals.match import Match, Top
from tutelage.signals.policy import ScoreFunction
from tutelage.signals.readouts import gap


@recipe(paper="none", family="mine", formula="-A log q(y), A = log p/q (y), on answers cut where they agree for long")
def stopped_early(*, window: int = 64, max_tokens: int = 1024) -> Recipe:
    """Follow the sampled token's log-ratio on answers that end where there is nothing left to learn."""
    watched = Note("gap", Match(kl_reverse, on=Top(64, of="student")))
    stop = Settled(Lows(0.3, 4096, 512, 50), window, 4, 4 * window, 1)
    written = Stretches(Ask("student", max_tokens=min(window, max_tokens)), watched, stop, max_tokens)
    return Recipe((base.train(Live(written, prompts="train"), Term("policy", ScoreFunction(gap()))),))
