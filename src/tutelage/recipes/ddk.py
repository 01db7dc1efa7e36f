"""Distillation on a mixture of domains that follows the student's lag behind the teacher."""

import math

from ..core.errors import SettingError
from ..core.feedback import Chase
from ..core.recipe import Generate, Recipe, recipe
from ..core.signal import Noted, Read
from ..core.term import Term
from ..data.deal import Dealt
from ..data.gauge import Gauge, Gauged
from ..data.source import Corpus
from ..data.steps.note import Note
from ..signals.divergences import Tempered, kl_forward, kl_reverse
from ..signals.match import Match, Targets
from ..signals.readouts import LogProb
from . import base


@recipe(
    paper="arXiv:2407.16154",
    family="data",
    formula="CE(y, q) + kl_scale T^2 KL(p_T || q_T) on domains with shares r, r' = keep softmax(log r + s) + "
    "(1 - keep) / N, s the student's perplexity over the teacher's",
    differs=(
        "The paper prints the student first in its KL; the teacher first, as in its baselines, is taken unless "
        "`reverse` is set (reconstructed).",
        "Ratios above 20 count as 20: the exponential of a hopeless one would leave nothing for the other domains.",
        "With a temperature other than 1 the KL is multiplied by its square; the paper has 1.",
        "There is no end when all ratios are near 1: the stage's steps end it.",
    ),
    axes={"writer": "data by measured lag", "divergence": "forward KL with labels", "gradient": "supervised"},
)
def ddk(
    *,
    domains: tuple[str, ...] = ("train",),
    held: tuple[str, ...] = ("held_out",),
    every: int = 1000,
    keep: float = 0.5,
    smooth: bool = True,
    kl_scale: float = 0.2,
    temperature: float = 1.0,
    reverse: bool = False,
    trains: str = "answer",
) -> Recipe:
    """Give more data to the domains in which the student lags further behind the teacher, measured as it goes.

    Args:
        domains: Data sets to train on, one a domain.
        held: A validation data set for each domain, in order; none of their rows may be trained on. The paper has 500.
        every: Steps between two measurements, >= 1; the shares hold that long. 1000 is the paper's best.
        keep: The paper's alpha, in [0, 1]: the part of the shares that follows the lag; the rest is spread evenly.
        smooth: Multiply the shares by the lag's exponential; false takes its softmax anew each time.
        kl_scale: Weight of the KL beside the cross-entropy, >= 0; 0.2 is the paper's best.
        temperature: Softens both sides of the KL, > 0.
        reverse: The student first in the KL.
        trains: `answer` trains the answers, `all` the prompts' text as well.

    Limits:
        one domain and kl_scale=0: supervised.
        one domain and kl_scale=1: the sum of supervised and forward_kl.
    """
    if len(domains) != len(held) or not domains or kl_scale < 0:
        raise SettingError(
            "ddk",
            got=f"{len(domains)} domains, {len(held)} validation sets, kl_scale={kl_scale}",
            expected="a validation set for each domain, and kl_scale >= 0",
            remedy='E.g. domains = ["math", "code"], held = ["math_held", "code_held"].',
        )
    note = Note("teacher", LogProb(Read("teacher")))
    scored = [Corpus(f"{name}.scored") for name in held]
    score = [Generate(f"score-{name}", f"{name}.scored", (note,), over=name) for name in held]
    lag = Gauge(Noted("teacher") - LogProb(), tuple(scored), math.exp)
    shares = Chase(lag.measures, keep, smooth)
    dealt = Dealt(tuple(Corpus(name, trains=trains) for name in domains), shares, every)  # type: ignore[arg-type]
    divergence = kl_reverse if reverse else kl_forward
    kl = Match(divergence if temperature == 1 else Tempered(divergence, temperature))
    terms = [Term("labels", Targets()), *([Term("kl", kl, scale=kl_scale)] if kl_scale else [])]
    return Recipe((*score, base.train(Gauged(dealt, lag, (shares,), every), *terms)))
