"""Who looks at each step's records: cut answers and collapsing ones are said once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.record import Record
from ..core.schedule import Memory, Progress
from ..data.collate import Collate
from ..evaluation.metrics.collapse import CollapseWatch, figures
from ..training.log import Listener


@dataclass
class Telling:
    """Follows a stage for another listener; what is to be said goes to ``say``, which keeps it."""

    listener: Listener
    say: Callable[[str], None]

    def stage(self, name: str, num_steps: int, done: int) -> None:
        """A stage starts, or goes on after ``done`` steps."""
        self.listener.stage(name, num_steps, done)

    def step(self, metrics: Mapping[str, Any]) -> None:
        """A step was taken."""
        self.listener.step(metrics)

    def note(self, text: str) -> None:
        """Something to be said once."""
        self.say(text)


@dataclass
class Cuts:
    """Says once that truncation cuts answers."""

    collate: Collate
    say: Any

    def __call__(self, progress: Progress, records: Sequence[Record], means: Mapping[str, float]) -> Sequence[str]:
        cut = self.collate.report(records) if progress.step == 0 else None
        if cut and cut.num_rows:
            self.say(
                f"Stage {progress.stage!r}: max_length={self.collate.max_length} cuts the end of {cut.num_rows} of "
                f"{len(records)} answers in the first batch."
            )
        return ()


@dataclass(eq=False)
class Flat(Memory):
    """Says once that rewards have not differed in any group for some steps: then they teach nothing.

    Args:
        patience: Steps in a row.
        follows: The tracked mean of groups whose rewards are all equal.
    """

    patience: int = 10
    follows: str = "all alike"

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Nothing seen."""
        self._count = 0

    def __call__(self, progress: Progress, records: Sequence[Record], means: Mapping[str, float]) -> Sequence[str]:
        self._count = self._count + 1 if means.get(self.follows) == 1 else 0
        if self._count != self.patience:
            return ()
        return (
            f"Stage {progress.stage!r}: for {self.patience} steps the rewards of every group were all equal, so they "
            "taught nothing. Look at the answers: the verifier may not find what they say, max_tokens may cut them, or "
            "the problems are too hard or too easy; more rollouts a prompt differ sooner.",
        )

    def state_dict(self) -> dict[str, Any]:
        """The steps in a row."""
        return {"count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._count = int(state["count"])


@dataclass
class Rounds:
    """Looks for collapse in what the student writes."""

    watch: CollapseWatch

    def __call__(self, progress: Progress, records: Sequence[Record], means: Mapping[str, float]) -> Sequence[str]:
        written = [p for r in records for p in r.trained() if p.author == "student" and p.ids]
        if not written:
            return ()
        # The mean of -log q over what was sampled estimates the entropy without another pass.
        surprises = [-x for p in written for x in p.notes.get("log_prob", ())]
        entropy = sum(surprises) / len(surprises) if surprises else None
        answers, cut = [p.ids or () for p in written], [p.stop == "length" for p in written]
        return self.watch.see(figures(answers, cut=cut, entropy_nats=entropy))
