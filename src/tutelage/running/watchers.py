"""Who looks at each step's records: cut answers and collapsing ones are said once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.record import Record
from ..core.schedule import Progress
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
