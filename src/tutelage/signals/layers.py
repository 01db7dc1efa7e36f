"""Layer against layer: two models of other depths, compared at even steps through their blocks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..core.errors import SettingError, unknown
from ..core.schedule import Schedule
from ..core.signal import Lens, Read, Signal, Sum
from ..core.term import Part, Term
from ..models.parts import Widths
from .attention import AverageHeads, EachHead, score_error
from .divergences import kl_forward
from .lenses import Level, Project
from .match import Match, squared_error

LOOKS = {"scores": (score_error, ()), "heads": (EachHead(kl_forward), ()), "average": (kl_forward, (AverageHeads(),))}
"""Ways to compare attention, each a comparison and the lenses before it."""


def by_layer(
    compare: Callable[[Tensor, Tensor], Tensor],
    what: str,
    layers: int,
    *,
    teacher: str = "teacher",
    maps: str = "",
    through: tuple[Lens, ...] = (),
) -> Signal:
    """``sum_m compare(student after m of M steps, teacher after m of M steps)`` over every real token: Float[P].

    With N blocks, step m is after block ``m N / M``, rounded: 4 steps through 12 blocks are blocks 3, 6, 9 and 12. The
    map rises strictly and ends at the last block. States begin at step 0, the embedding; attention at step 1.

    Args:
        compare: ``(q, p)`` of a unit's features or scores.
        what: ``states`` or ``attention``.
        layers: M, from 1 to the number of the shallower model's blocks.
        teacher: The voice that is matched.
        maps: The slot of the learned maps from the student's width to the teacher's, one a step; none by default.
        through: Lenses on both sides, before the maps.

    Raises:
        SettingError: No step.
    """
    if layers < 1:
        raise SettingError(
            "layers", got=str(layers), expected="a whole number >= 1", remedy="At most the student's blocks."
        )
    sums = []
    for m in range(0 if what == "states" else 1, layers + 1):
        own = (*through, Project(maps, m)) if maps else through
        step = f"{what}.{m}/{layers}"
        sums.append(Match(compare, Read("student", step, own, "real"), Read(teacher, step, through, "real")))
    return Sum(tuple(sums))


def width_maps(slot: str, layers: int, teacher: str = "teacher") -> dict[str, Part]:
    """The part in a slot that ``by_layer`` reads as its maps: one a step, the embedding's first."""
    sizes = (("in_features", "student.hidden_size"), ("out_features", f"{teacher}.hidden_size"))
    return {slot: Part(Widths, (("num_maps", layers + 1),), sizes)}


def latent(
    layers: int,
    teacher: str = "teacher",
    *,
    maps: str = "",
    attention: str = "scores",
    level: bool = False,
    scale: float | Schedule = 1.0,
) -> tuple[Term, Term]:
    """The terms ``states`` (squared error) and ``attention``, each a sum over steps and a mean over real tokens.

    Args:
        layers: See ``by_layer``.
        teacher: The voice that is matched.
        maps: See ``by_layer``.
        attention: A name of ``LOOKS``.
        level: Compare states at one length (``Level``).
        scale: Of both terms.
    """
    if attention not in LOOKS:
        raise unknown("attention", attention, LOOKS)
    compare, lenses = LOOKS[attention]
    lengths = (Level(),) if level else ()
    states = by_layer(squared_error, "states", layers, teacher=teacher, maps=maps, through=lengths)
    looks = by_layer(compare, "attention", layers, teacher=teacher, through=lenses)
    return Term("states", states, scale=scale), Term("attention", looks, scale=scale)
