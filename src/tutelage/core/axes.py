"""Where a recipe stands on the field's three axes, read off its tree: feedback, access to the teacher, granularity.

* ``feedback``: ``logit`` (a teacher's probabilities or states), ``outcome`` (numbers of whole answers, as rewards),
  ``self`` (the learner with other weights or another context), ``text`` (tokens alone, the teacher's or the data's).
* ``access``: ``white-box`` (probabilities over categories, or states, of a model that is not trained), ``black-box``
  (its text, or its score of given tokens), ``none``.
* ``granularity``: ``token``, ``sequence`` (each unit's number depends on its whole row or group), ``hybrid``.

Source: arXiv:2604.00626.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .errors import unknown
from .needs import needs, stages
from .recipe import Change, Recipe, Train
from .schedule import walk
from .signal import Couples, Noted, Signal
from .term import Term

AXES: dict[str, tuple[str, ...]] = {
    "feedback": ("logit", "outcome", "self", "text"),
    "access": ("white-box", "black-box", "none"),
    "granularity": ("token", "sequence", "hybrid"),
}
SEEN = frozenset({"text", "sample", "next.target"})
"""What a model behind an interface of text gives."""


def axes(recipe: Recipe) -> dict[str, str]:
    """A recipe's place on each axis; several kinds of feedback are joined by `` + ``."""
    trains = [s for s in stages(recipe.stages) if isinstance(s, Train)]
    trained = {slot for s in trains for u in s.updates for slot in u.moves}
    learners = trained & {"student"} or trained  # a teacher or a helper that trains beside the student is not it
    copies = {s.into: getattr(s.by, "slot", "") for s in stages(recipe.stages) if isinstance(s, Change)}
    own = learners | {slot for s in trains for slot in s.parts}
    updates = [(s, u) for s in trains for u in s.updates if learners & set(u.moves)]
    terms = [(t, s, u.moves) for s, u in updates for t in u.objective]
    every = [part for _, part in walk(recipe.stages)]
    notes = {p.name: p.slots() for p in every if isinstance(getattr(p, "signal", None), Signal) and hasattr(p, "slots")}
    feedback = {found for t, s, moves in terms for found in _feedback(t, s, moves, own, copies, notes)}
    return {
        "feedback": " + ".join(place for place in AXES["feedback"] if place in feedback),
        "access": _access(recipe, trains, own, copies),
        "granularity": _granularity([t for t, _, _ in terms]),
    }


def check_axes(wanted: Mapping[str, str]) -> None:
    """Refuse axes and places that there are none of.

    Raises:
        UnknownName: With the names that there are.
    """
    for axis, place in wanted.items():
        if axis not in AXES:
            raise unknown("axis", axis, AXES)
        if place not in AXES[axis]:
            raise unknown(f"axis {axis!r}", place, AXES[axis])


def on(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a place on the axes is the wanted one; one of several kinds of feedback is enough."""
    return all(place in found[axis].split(" + ") for axis, place in wanted.items())


def _slots(who: str, stage: Train) -> frozenset[str]:
    """The model slots that speak with a voice."""
    voice = stage.voices.get(who)
    if voice is None:
        return frozenset({who})
    below = getattr(voice, "upstream", dict)()
    found = {slot for name in below if name != who for slot in _slots(name, stage)}
    slot = getattr(voice, "slot", None)
    return frozenset(found | ({slot} if slot else set(voice.slots())))


def _root(slot: str, own: set[str], copies: Mapping[str, str]) -> str:
    """What a slot was made from, however often, up to one that is trained."""
    for _ in copies:
        slot = slot if slot in own else copies.get(slot) or slot
    return slot


def _feedback(
    term: Term,
    stage: Train,
    moves: tuple[str, ...],
    own: set[str],
    copies: Mapping[str, str],
    notes: Mapping[str, frozenset[str]],
) -> Iterator[str]:
    signals = [p for part in (term.loss, term.weight) for _, p in walk(part) if isinstance(p, Signal)]
    noted = [p for p in signals if isinstance(p, Noted)]
    found = {"outcome" for p in noted if p.unit == "rows" and p.name not in notes}
    read_before = {slot for p in noted for slot in notes.get(p.name, ())}
    found |= {"logit" for slot in read_before if _root(slot, own, copies) not in own}
    for read in {r for p in signals for r in p.own_reads()}:
        for slot in _slots(read.who, stage):
            if _root(slot, own, copies) not in own:
                found.add("logit")
            elif slot not in stage.parts and read.who not in moves:
                found.add("self")
    yield from found or {"text"}


def _access(recipe: Recipe, trains: list[Train], own: set[str], copies: Mapping[str, str]) -> str:
    wanted: set[str] = set()
    for who, what in needs(recipe).items():
        speaking = [_slots(who, s) for s in trains if who in s.voices] or [frozenset({who})]
        outside = {slot for slots in speaking for slot in slots if _root(slot, own, copies) not in own}
        wanted |= what if outside else set()
    if not wanted - {"weights"}:
        return "none"
    return "black-box" if wanted <= SEEN | {"weights"} else "white-box"


def _granularity(terms: list[Term]) -> str:
    coupled = [_coupled(t.loss) or _coupled(t.weight) for t in terms]
    return "token" if not any(coupled) else "sequence" if all(coupled) else "hybrid"


def _coupled(signal: Signal) -> bool:
    """Whether a unit's number depends on its row or group; a choice of tokens among a batch is still one by token."""
    for _, part in walk(signal):
        if isinstance(part, Noted) and part.unit == "rows":
            return True
        if isinstance(part, Signal) and part.couples in (Couples.ROW, Couples.GROUP):
            return True
    return signal.over == "rows"
