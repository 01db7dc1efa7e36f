"""Generations of a student, each taught by its predecessors and an anchor to the base teachers."""

from ..core.errors import SettingError
from ..core.recipe import Change, Evaluate, Generate, Recipe, Repeat, Train, recipe
from ..core.signal import Read
from ..core.term import Term, Update
from ..data.gauge import Gauge
from ..data.source import Corpus
from ..data.steps.ask import Ask
from ..evaluation.generations import Contracting
from ..signals.divergences import kl_forward
from ..signals.match import Match, Targets
from ..surgery.copy import Copy
from ..voices.blend import Blend


@recipe(
    paper="arXiv:2601.13100",
    family="theory",
    formula="KL(M_n || q), M_n = (1 - lambda) q_n + lambda P or the geometric pool, P the base, q_n the last student",
    differs=(
        "Operators, axioms and constants are reconstructed: of the paper the abstract was read.",
        "A generation goes on from the last one's weights; none begins from new weights.",
        "Predecessors, and base teachers, share their part evenly.",
        "The recursion stops by the forward KL to the first base teacher on held-out rows, where there are any.",
    ),
    axes={
        "writer": "data or the pool",
        "divergence": "forward KL to a pool of selves and base",
        "gradient": "supervised",
    },
)
def recursive_meta_distillation(
    *,
    generations: int = 3,
    anchor: float = 0.3,
    geometric: bool = False,
    history: int = 1,
    bases: tuple[str, ...] = ("teacher",),
    written: bool = False,
    tolerance: float = 0.3,
    held: str = "held_out",
    max_tokens: int = 128,
) -> Recipe:
    """Teach each generation by a pool of the generations before and of base teachers that stay.

    Args:
        generations: How many at most, >= 1; the run's steps are of one generation.
        anchor: lambda, the share of the base teachers, in [0, 1]: 1 is plain distillation, 0 drifts without end.
        geometric: Pool log-probabilities instead of probabilities.
        history: Generations that are pooled with the base, >= 1.
        bases: The slots of the base teachers, one or more.
        written: Fit text that the pool writes (linear pools only) instead of its probabilities on the data.
        tolerance: Stop once the distance to the base falls by a ratio above 1 - lambda + tolerance, >= 0; the default
            goes on as long as it falls.
        held: The data set that the distance is measured on.
        max_tokens: The longest answer, where the pool writes.

    Limits:
        anchor=1, generations=1: forward_kl.
        anchor=0: no gradient in the first step of any generation.
    """
    if generations < 1 or history < 1 or not 0 <= anchor <= 1 or not bases or tolerance < 0 or (geometric and written):
        raise SettingError(
            "recursive_meta_distillation",
            got=f"generations={generations}, history={history}, anchor={anchor}, bases={bases}, tolerance={tolerance}, "
            f"geometric={geometric}, written={written}",
            expected="1 or more generations, history and bases, anchor in [0, 1], and a linear pool where it writes",
            remedy="3 generations with an anchor of 0.3 to one teacher are usual.",
        )
    pasts = tuple(f"last-{age}" for age in range(1, history + 1))
    shares = (*(((1 - anchor) / history,) * history), *((anchor / len(bases),) * len(bases)))
    pool = Blend((*pasts, *bases), shares, geometric)
    older = tuple(zip(pasts[:0:-1], pasts[-2::-1], strict=True))
    first = tuple(Change(f"begin-{past}", past, Copy("student")) for past in pasts[1:])
    keep = (*(Change(f"age-{to}", to, Copy(of)) for to, of in older), Change("keep", pasts[0], Copy("student")))
    write = (Generate("write", "generation", (Ask(pool, max_tokens=max_tokens),)),) if written else ()
    term = Term("labels", Targets()) if written else Term("kl", Match(kl_forward, p=Read("meta")))
    train = Train("train", Corpus("generation" if written else "train"), (Update((term,)),), voices={"meta": pool})
    until = Contracting(Gauge(Match(kl_forward, p=Read(bases[0])), (Corpus(held),)), 1 - anchor + tolerance)
    rounds = Repeat("generation", (*keep, *write, train, Evaluate("distance")), generations, until)
    return Recipe((*first, rounds))
