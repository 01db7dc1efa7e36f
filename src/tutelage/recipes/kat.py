"""On-policy distillation that stops an answer once teacher and student have settled into agreement."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, recipe
from ..core.term import Term
from ..data.live import Live
from ..data.settled import Lows, Settled
from ..data.steps.ask import Ask
from ..data.steps.note import Note
from ..data.steps.stretches import Stretches
from ..signals.divergences import kl_reverse
from ..signals.match import Match, Top
from . import base


@recipe(
    paper="arXiv:2606.09471",
    family="on-policy",
    formula="mean of KL(q || p) before the first of `runs` windows of it in a row whose mean is below the flagged "
    "quantile of former answers' least windows",
    differs=(
        "Below the bound lie `flagged` of the answers (reconstructed); read literally the paper's share is 0.7.",
        "Windows count token by token and the exempt start is 256 tokens (reconstructed): `stride` and `exempt`.",
        "Answers are written in stretches and scored anew after each, so up to one more is written behind the cut.",
        "Answers that are never stopped, as probes against a drift of the quantile, are not there.",
        "On several processes each has a queue of its own answers; length, batch and rate are the run's.",
    ),
    axes={"writer": "student, stopped early", "divergence": "reverse KL", "gradient": "supervised"},
)
def kat(
    *,
    flagged: float = 0.3,
    window: int = 64,
    runs: int = 4,
    exempt: int = 256,
    stride: int = 1,
    num_kept: int = 64,
    queue: int = 4096,
    least: int = 512,
    warmup_steps: int = 50,
    stretch: int = 64,
    max_tokens: int = 1024,
    temperature: float = 1.0,
    top_p: float = 0.95,
) -> Recipe:
    """Correct the student on its own answers, and cut each where the two have agreed for long: a loop teaches nothing.

    Args:
        flagged: Share of former answers whose least window lies below the bound, in [0, 1): 0 never cuts, 0.3 is
            safe, 0.7 the paper read literally.
        window: Tokens whose mean divergence is compared, >= 1.
        runs: Windows in a row that must be low, >= 1.
        exempt: Tokens at the start that are never cut, >= 0; low there is harmless.
        stride: Tokens from one window to the next, >= 1.
        num_kept: Most probable tokens of the student that the watched divergence compares, all others as one.
        queue: Answers that set the bound.
        least: Answers before anything is cut, >= 1.
        warmup_steps: Optimiser steps before anything is cut, >= 0.
        stretch: Tokens written between two looks, >= 1; cost alone depends on it.
        max_tokens: The longest answer.
        temperature: Of the student's sampling.
        top_p: Of the student's sampling.

    Limits:
        flagged=0, stretch=max_tokens and top_p=1: opd.
    """
    if stretch < 1:
        raise SettingError("kat.stretch", got=str(stretch), expected="at least 1", remedy="64 is usual.")
    watched = Note("gap", Match(kl_reverse, on=Top(num_kept, of="student")))
    stop = Settled(Lows(flagged, queue, least, warmup_steps), window, runs, exempt, stride)
    ask = Ask("student", max_tokens=stretch, temperature=temperature, top_p=top_p)
    source = Live(Stretches(ask, watched, stop, max_tokens), prompts="train")
    return Recipe((base.train(source, Term("kl", Match(kl_reverse))),))
