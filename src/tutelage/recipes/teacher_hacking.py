"""A test bench of teacher hacking: an oracle, a teacher and a student that both learnt from it, and two distances."""

from ..core.errors import SettingError, unknown
from ..core.recipe import Change, Generate, Recipe, Train, recipe
from ..core.signal import Read
from ..core.term import Term, Update
from ..data.gauge import Gauge, Gauged, Gauges
from ..data.live import Live
from ..data.source import Corpus
from ..data.steps.ask import Ask
from ..data.steps.every import Every
from ..evaluation.metrics.hacking import Hacking
from ..signals.divergences import Jensen, kl_forward
from ..signals.match import Match, Targets
from ..surgery.copy import Copy
from . import base

WRITERS = ("once", "teacher", "student")


@recipe(
    paper="arXiv:2502.02671",
    family="evaluation",
    formula="KL(p_teacher || q) on text of a fixed or new writer; golden: KL(p_oracle || q), proxy: KL(p_teacher || q)",
    differs=(
        "With two models the run's teacher is the oracle, and the teacher is a copy of the student that is trained on "
        "the oracle's text; the paper's teacher is larger than its student.",
        "Both distances are means a token of held-out text, not sums a sequence; text for them is written once.",
        "The detector of a broken power law is reconstructed, the index is ours; steps and rates are the run's.",
    ),
    axes={"writer": "teacher once, teacher or student anew", "divergence": "forward KL", "gradient": "supervised"},
)
def teacher_hacking(
    *,
    writer: str = "once",
    fewer: int = 1,
    beta: float = 0.0,
    every: int = 10,
    above: float = 1.2,
    held: str = "held_out",
    max_tokens: int = 128,
) -> Recipe:
    """Distil a teacher whose truth is known, and watch whether the student leaves the truth while it nears the teacher.

    Args:
        writer: Who writes the text of the distillation: `once` the teacher, before it starts, the same in every epoch;
            `teacher` or `student` anew in every step.
        fewer: For `once`: the rows are of that many times fewer prompts, each answered as often; 1, 2, 4, 8 or 16.
            Less diversity at one size makes hacking stronger.
        beta: Of the generalised Jensen-Shannon divergence: 0 is forward KL, 1 reverse KL.
        every: Steps from one measurement of both distances to the next, >= 1.
        above: The index, last golden distance over the least, above which the run says that the teacher is hacked.
        held: The data set whose prompts are measured on; the run must have it.
        max_tokens: The longest answer, of every writer.

    Limits:
        writer=once, fewer=1: the last stage is forward_kl on the teacher's text.
        writer=student, beta=1: the last stage is opd.
    """
    if writer not in WRITERS:
        raise unknown("teacher_hacking.writer", writer, WRITERS)
    if fewer not in (1, 2, 4, 8, 16) or (fewer > 1 and writer != "once"):
        raise SettingError(
            "teacher_hacking.fewer",
            got=f"{fewer} with writer={writer!r}",
            expected="1, 2, 4, 8 or 16, and 1 where text is written anew",
            remedy="Fewer prompts are a setting of text that is written once.",
        )
    ask = {who: Ask(who, max_tokens=max_tokens) for who in ("teacher", "taught", "student")}
    texts = (("teacher", "oracle_text", "train"), ("teacher", "oracle_held", held), ("taught", "taught_held", held))
    *oracle, own = (Generate(f"write_{into}", into, (ask[who],), over) for who, into, over in texts)
    teach = Train("teach", Corpus("oracle_text"), (Update((Term("labels", Targets(Read("taught"))),), ("taught",)),))
    start = base.train(Corpus("oracle_text"), Term("labels", Targets()), name="start")
    many = (Every(fewer), Ask("taught", times=fewer, max_tokens=max_tokens))
    once = (Generate("write_taught_text", "taught_text", many),) if writer == "once" else ()
    anew = Live(ask["student" if writer == "student" else "taught"], prompts="train")
    hacking = Hacking("oracle_held", "taught_held", above)
    both = Gauges(tuple(Gauge(Match(kl_forward, p=Read(who)), (Corpus(into),)) for who, into, _ in texts[1:]))
    measured = Gauged(Corpus("taught_text") if once else anew, both, (hacking,), every)
    update = Update((Term("kl", Match(Jensen(beta), p=Read("taught"))),))
    distil = Train("distil", measured, (update,), alarms=(hacking,))
    return Recipe((*oracle, Change("copy", "taught", Copy("student")), teach, start, own, *once, distil))
