"""Classes of whole records: a head over pooled states, and cross-entropy with a label that was noted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.context import Asks
from ..core.errors import SettingError
from ..core.recipe import Generate, Train
from ..core.schedule import Schedule
from ..core.signal import Read, Signal
from ..core.term import Part, Term, Update
from ..data.source import Corpus
from ..data.steps.label import Label
from ..models.parts import Classes
from .divergences import Tempered, kl_forward
from .lenses import Classify
from .match import Match, Targets


@dataclass(frozen=True)
class NotedClass(Signal):
    """``-log q(label)`` in nats, over rows: Float[R].

    Args:
        q: Scores over classes, a read over ``rows``.
        note: The note of the records that holds the label's number.
    """

    q: Read
    note: str = "label"

    def __call__(self, ctx: Asks) -> Tensor:
        label = ctx.note(self.note, self.q.over).long()
        return -ctx.log_probs(self.q).gather(-1, label.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class RightClass(Signal):
    """1 where the most probable class is the label, else 0: Float[R].

    Args:
        q: Scores over classes, a read over ``rows``.
        note: The note of the records that holds the label's number.
    """

    q: Read
    note: str = "label"

    def __call__(self, ctx: Asks) -> Tensor:
        log_q = ctx.log_probs(self.q)
        return (log_q.argmax(-1) == ctx.note(self.note, self.q.over).long()).to(log_q.dtype)


@dataclass(frozen=True)
class Answer:
    """What a task asks of a model: the answer's tokens or, with classes, the class of the row.

    Args:
        label: The field of the records that holds the class; empty where the answer is text.
        classes: Its values; each model then has a head of its own over its pooled states, in the slot ``WHO.classes``.

    Raises:
        SettingError: A label without classes, or classes without a label.
    """

    label: str = ""
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.label) != bool(self.classes):
            raise SettingError(
                "the task's answer",
                got=f"label={self.label!r}, classes={list(self.classes)}",
                expected="both or neither",
                remedy='E.g. label = "label", classes = ["no", "yes"]; neither where the answer is text.',
            )

    def numbered(self, data: str, into: str) -> tuple[Generate, ...]:
        """The stage that notes each row's class, where there are classes."""
        return (Generate("label", into, (Label(self.label, self.classes),), data),) if self.classes else ()

    def text(self, data: str, labelled: str) -> Corpus:
        """The task's rows."""
        return Corpus(labelled, trains="all") if self.classes else Corpus(data)

    def read(self, who: str) -> Read:
        """The scores that answer: over the vocabulary at the answer's tokens, or over classes at the rows."""
        return Read(who, "pooled", (Classify(f"{who}.classes"),), "rows") if self.classes else Read(who)

    def hard(self, who: str) -> Signal:
        """Cross-entropy with the data's answer."""
        return NotedClass(self.read(who)) if self.classes else Targets(self.read(who))

    def judged(
        self, teacher: str, temperature: float, soft: float | Schedule, hard: float | Schedule
    ) -> tuple[Term, Term]:
        """The student's terms ``soft``, ``T^2 KL(p_T || q_T)``, and ``hard``, with their weights."""
        match = Match(Tempered(kl_forward, temperature), self.read("student"), self.read(teacher))
        return Term("soft", match, scale=soft), Term("hard", self.hard("student"), scale=hard)

    def heads(self, who: str) -> dict[str, Part]:
        """The parts that a model needs to answer."""
        sizes = (("in_features", f"{who}.hidden_size"),)
        settings = (("out_features", len(self.classes)),)
        return {f"{who}.classes": Part(Classes, settings, sizes)} if self.classes else {}

    def probed(self, who: str, source: Corpus) -> tuple[Train, ...]:
        """The stage ``probe`` that trains a model's head over classes, and nothing else, where there is one."""
        heads = self.heads(who)
        update = Update((Term("hard", self.hard(who)),), tuple(heads), watch=self.watch(who))
        return (Train("probe", source, (update,), parts=heads),) if heads else ()

    def watch(self, who: str) -> tuple[tuple[str, Signal], ...]:
        """How often the most probable class is the label."""
        return (("right", RightClass(self.read(who))),) if self.classes else ()
