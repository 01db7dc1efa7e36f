"""Hints: help that a model writes knowing the reference, for prompts of which every answer failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...core.record import Record
from ..views import Told
from .aside import Aside
from .ask import Ask
from .parse import Parse
from .rescue import AtMost, Rescue, Solved
from .through import Through

KNOWING = Told(
    before="\n\nThe answer is: ",
    after="\n\nWrite a short hint towards it between <hint> and </hint>. Do not state the answer itself.",
)
WITH_HINT = Told("hint", before="\n\nHint: ")


def by_hint(
    hinter: str,
    answer: Ask,
    *grades: Any,
    tries: int = 5,
    most: int = 2,
    failed: Callable[[Record], bool] | None = None,
) -> Rescue:
    """A ``Rescue`` whose help is a hint, written by a model that is told the reference.

    The text between hint tags is the hint, or all that was written where the tags are missing; a prompt whose hint is
    empty gets none. Answers that mention a hint are not put in: the prompt that they will stand behind shows none.

    Args:
        hinter: The slot that writes the hint, sampled like the answers.
        answer: Answers with it, ``most`` times each try; its own ``times`` is not used.
        *grades: Steps that grade the answers.
        tries: Times that the model is asked with the hint at most, >= 1.
        most: Answers put in at most, >= 1.
        failed: What a failed row is; by default one whose note ``right`` is at most 0.5.
    """
    cleaned = Parse(r"<hint>(?P<hint>.+?)</hint>", of="hint", whole="hint")
    told = Through(WITH_HINT, replace(answer, times=most))
    ask = replace(answer, who=hinter, times=1)
    solved = Solved(unsaid=("hint",))
    return Rescue(failed or AtMost(), solved, (Aside(KNOWING, ask, "hint"), cleaned), (told, *grades), tries, most)
