"""SCOPE's routing by correctness, over rollouts that the teacher scored once, as Lightning does."""

from tutelage.core.recipe import Generate, Recipe, Train, recipe
from tutelage.core.signal import Noted, Read, Still
from tutelage.core.term import Term, Update, kept, per_token
from tutelage.data.source import Corpus
from tutelage.data.steps.ask import Ask
from tutelage.data.steps.note import Note
from tutelage.signals.grades import Grade, find
from tutelage.signals.match import Targets
from tutelage.signals.picks import Above, Below
from tutelage.signals.policy import K3
from tutelage.signals.pools import RowMean
from tutelage.signals.readouts import LogProb
from tutelage.signals.rewards import RIGHT
from tutelage.signals.scale import GroupSoftmax


@recipe(paper="none", family="mine", formula="right: w (-log q(y)); wrong: w k3(q, p), p read from the rows' notes")
def scored_once(*, verifier: str = "number", rollouts: int = 8, max_tokens: int = 128) -> Recipe:
    """Write and score rollouts once; from then on no teacher is in memory."""
    right, wrong = Above(RIGHT, 0.5), Below(RIGHT, 0.5)
    rare = GroupSoftmax(RowMean(-Noted("log_prob")), right)
    sound = GroupSoftmax(RowMean(Noted("teacher")), wrong)
    terms = (
        Term("own", Still(rare) * Targets(), weight=right, per=kept(per_token)),
        Term("correction", Still(sound) * K3(p=Noted("teacher")), weight=wrong, per=kept(per_token)),
    )
    ask = Ask("student", times=rollouts, max_tokens=max_tokens)
    cache = (ask, Grade(find(verifier)), Note("teacher", LogProb(Read("teacher"))))
    return Recipe((Generate("cache", "rollouts", cache), Train("train", Corpus("rollouts"), (Update(terms),))))
