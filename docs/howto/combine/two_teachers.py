"""Two teachers, each for its own domain, under AOPD's rule for each token."""

from dataclasses import replace

from tutelage.core.recipe import Recipe, recipe
from tutelage.core.signal import Read, Still
from tutelage.core.term import Term, per_row
from tutelage.recipes import base
from tutelage.signals.apply import Apply
from tutelage.signals.divergences import kl_forward
from tutelage.signals.match import Match, Top
from tutelage.signals.picks import Above, Below
from tutelage.signals.policy import ScoreFunction
from tutelage.signals.readouts import LogProb
from tutelage.voices.route import Route


@recipe(paper="none", family="mine", formula="AOPD's loss, its teacher chosen by the record's domain")
def two_teachers(*, maths: str = "teacher", other: str = "teacher", max_tokens: int = 128) -> Recipe:
    """Reinforce or imitate, by what the teacher of the record's domain says."""
    read = Read("teachers")
    own, taught = Still(LogProb()), Still(LogProb(read))
    gain = Apply("exp", taught) - Apply("exp", own)
    imitate = Match(kl_forward, p=read, on=Top(10, rest="drop"))
    loss = Below(gain) * imitate + Above(gain) * ScoreFunction(taught - own)
    made = base.on_policy(Term("token", loss, per=per_row), max_tokens=max_tokens, temperature=1.0)
    route = Route("domain", (("maths", maths), ("other", other)))
    return replace(made, stages=(replace(made.stages[0], voices={"teachers": route}),))
