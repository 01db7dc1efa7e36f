"""TAID's moving target, on the student's own answers."""

from dataclasses import replace

from tutelage.core.feedback import Climb
from tutelage.core.recipe import Recipe, recipe
from tutelage.core.schedule import Complement
from tutelage.core.signal import Read
from tutelage.core.term import Term
from tutelage.recipes import base
from tutelage.signals.divergences import kl_reverse
from tutelage.signals.match import Match
from tutelage.voices.blend import Blend


@recipe(paper="none", family="mine", formula="KL(q || geometric blend of q and p), the blend's share of p rising")
def moving_target(*, start: float = 0.2, max_tokens: int = 128) -> Recipe:
    """Follow a target between student and teacher, where the student's own answers lead it."""
    share = Climb("kl", start, 1.0, rate=0.01)
    target = Blend(("student", "teacher"), (Complement(share), share), geometric=True)
    made = base.on_policy(Term("kl", Match(kl_reverse, p=Read("target"))), max_tokens=max_tokens, temperature=1.0)
    return replace(made, stages=(replace(made.stages[0], voices={"target": target}),))
