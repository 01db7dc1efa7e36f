"""Parents of recipes: the roads that most of them share."""

from __future__ import annotations

from ..core.recipe import Generate, Recipe, Train
from ..core.term import Term, Update
from ..data.live import Live
from ..data.source import Corpus, Mixture, Source
from ..data.steps.ask import Ask


def train(source: Source, *terms: Term, name: str = "train") -> Train:
    """One Train stage in which the student moves."""
    return Train(name, source, (Update(terms),))


def offline(*terms: Term, data: str = "train", trains: str = "answer") -> Recipe:
    """Train on the data as it is."""
    return Recipe((train(Corpus(data, trains=trains), *terms),))  # type: ignore[arg-type]


def write(who: str = "teacher", *, max_tokens: int, temperature: float, into: str = "answers") -> Generate:
    """A stage in which a model answers every prompt of ``train``."""
    return Generate("write", into, (Ask(who, max_tokens=max_tokens, temperature=temperature),))


def rollouts(*, max_tokens: int, temperature: float, reuse: int = 1) -> Live:
    """The student's own answers, written anew each round."""
    return Live(Ask("student", max_tokens=max_tokens, temperature=temperature), prompts="train", reuse=reuse)


def on_policy(*terms: Term, max_tokens: int, temperature: float, reuse: int = 1) -> Recipe:
    """Train on the student's own answers."""
    return Recipe((train(rollouts(max_tokens=max_tokens, temperature=temperature, reuse=reuse), *terms),))


def mixed(*terms: Term, student_share: float, max_tokens: int, temperature: float, data: str = "train") -> Train:
    """Train on a step of the student's own answers with probability ``student_share``, else on a step of data."""
    live = rollouts(max_tokens=max_tokens, temperature=temperature)
    return train(Mixture(((live, student_share), (Corpus(data), 1 - student_share))), *terms)
