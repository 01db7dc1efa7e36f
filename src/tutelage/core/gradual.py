"""Plans of several Train stages: what moves in each, and what changes from one to the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .describe import describe
from .errors import SettingError
from .recipe import Stage, Train
from .schedule import walk
from .signal import Read


def moved(stage: Train) -> tuple[str, ...]:
    """The slots that a stage trains, in order, each once."""
    return tuple(dict.fromkeys(slot for update in stage.updates for slot in update.moves))


def followed(stage: Train) -> tuple[str, ...]:
    """The voices that a stage reads and does not train: its teachers, sorted."""
    read = {part.who for _, part in walk(stage.updates) if isinstance(part, Read)}
    return tuple(sorted(read - set(moved(stage))))


def told(stage: Train, slots: Iterable[str]) -> str:
    """One line: what moves in a stage, and which of the slots stand still."""
    still = sorted(set(slots) - set(moved(stage)))
    return f"Stage {stage.name!r} trains {', '.join(moved(stage))}; frozen: {', '.join(still) or 'nothing'}."


def changes(before: Train, after: Train) -> tuple[str, ...]:
    """Which of ``teacher``, ``data`` and ``objective`` two stages differ in; another teacher is no other objective."""
    pairs = {
        "teacher": (followed(before), followed(after)),
        "data": (describe(before.source), describe(after.source)),
        "objective": (_objective(before), _objective(after)),
    }
    return tuple(name for name, (one, other) in pairs.items() if one != other)


def in_order(names: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """The same names, where they are some of the known ones in their order.

    Raises:
        SettingError: None, an unknown one, one twice, or another order.
    """
    if not names or list(names) != [name for name in known if name in names]:
        raise SettingError(
            "stages",
            got=f"{list(names)}",
            expected=f"some of {', '.join(known)}, in this order",
            remedy="Reorder them.",
        )
    return names


def gradual(stages: Sequence[Stage], allow_jump: bool = False) -> tuple[Stage, ...]:
    """The same stages, where those that train the same model change one thing at a time.

    Args:
        stages: The plan. Train stages whose first slot is the same are neighbours, whatever stands between them.
        allow_jump: Let several things change at once.

    Raises:
        SettingError: Two or more of teacher, data and objective change from a stage to the next.
    """
    last: dict[str, Train] = {}
    for stage in (s for s in stages if isinstance(s, Train)):
        slot = moved(stage)[0]
        found = changes(last[slot], stage) if slot in last else ()
        if len(found) > 1 and not allow_jump:
            raise SettingError(
                f"stages {last[slot].name!r} and {stage.name!r}",
                got=f"other {' and other '.join(found)} at once",
                expected="one change from a stage to the next",
                remedy="Put the stage between them that changes one, or set allow_jump = true.",
            )
        last[slot] = stage
    return tuple(stages)


def with_teacher(stages: Sequence[Stage], who: str, made: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages, with those that make a teacher before the first that follows it; without them if none does."""
    at = next((i for i, s in enumerate(stages) if isinstance(s, Train) and who in followed(s)), None)
    return tuple(stages) if at is None else (*stages[:at], *made, *stages[at:])


def _objective(stage: Train) -> str:
    """The terms, with their teachers' names blanked."""
    text = describe(tuple(update.objective for update in stage.updates))
    for number, who in enumerate(followed(stage)):
        text = text.replace(f"who={who!r}", f"who='frozen {number}'")
    return text
