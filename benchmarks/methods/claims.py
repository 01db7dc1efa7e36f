"""What papers claim, as comparisons that the bench can make, and what came out, in words made from the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .job import UPDATES
from .statistics import Figures, Interval

MARGIN = 0.02  # of accuracy: as good as means no more than this below
LOWER = ("forward KL", "reverse KL", "own reverse KL", "NLL", "ECE", "length", "tokens written")


@dataclass(frozen=True)
class Claim:
    """One recipe is better than another in a figure, or at least as good.

    Args:
        better: The recipe of which it is claimed.
        than: What it is compared with.
        source: Who claims it.
        figure: A name of ``measures``; less is better for those of ``LOWER``.
        as_good: Claimed is only that it is not worse, by a margin.
    """

    better: str
    than: str
    source: str
    figure: str = "accuracy"
    as_good: bool = False

    @property
    def text(self) -> str:
        """The claim in words."""
        if self.as_good:
            return f"{self.better} has at least the {self.figure} of {self.than}"
        word = "lower" if self.figure in LOWER else "higher"
        return f"{self.better} has {word} {self.figure} than {self.than}"


CLAIMS = (
    Claim("forward_kl", "supervised", "arXiv:1503.02531"),
    Claim("seqkd", "supervised", "arXiv:1606.07947"),
    Claim("forward_kl", "reverse_kl", "forward KL covers the teacher", "forward KL"),
    Claim("reverse_kl", "forward_kl", "reverse KL seeks its modes", "reverse KL"),
    Claim("opd", "forward_kl", "arXiv:2306.13649"),
    Claim("opd", "forward_kl", "arXiv:2306.13649: no mismatch between training and writing", "own reverse KL"),
    Claim("gkd", "forward_kl", "arXiv:2306.13649"),
    Claim("gkd", "seqkd", "arXiv:2306.13649"),
    Claim("gkd", "supervised", "arXiv:2306.13649"),
    Claim("imitkd", "seqkd", "arXiv:2009.07253"),
    Claim("minillm", "seqkd", "arXiv:2306.08543"),
    Claim("minillm", "seqkd", "arXiv:2306.08543", "ECE"),
    Claim("distillm", "gkd", "arXiv:2402.03898"),
    Claim("distillm", "gkd", "arXiv:2402.03898: replay needs fewer new answers", "tokens written"),
    Claim("distillm_2", "distillm", "arXiv:2503.07067"),
    Claim("taid", "forward_kl", "arXiv:2501.16937"),
    Claim("g_opd_exopd", "opd", "arXiv:2602.12125"),
    Claim("tip", "opd", "arXiv:2604.14084: half of the positions are enough", as_good=True),
    Claim("scope", "opd", "arXiv:2604.10688"),
    Claim("lightning_opd", "opd", "arXiv:2604.13010", as_good=True),
    Claim("lightning_opd", "seqkd", "arXiv:2604.13010"),
    Claim("strong_to_weak", "seqkd", "arXiv:2505.09388"),
    Claim("distilling_step_by_step", "supervised", "arXiv:2305.02301"),
    Claim("ddk", "forward_kl", "arXiv:2407.16154"),
    Claim("provenance_tracing", "seqkd", "arXiv:2512.20908"),
    Claim("alm", "supervised", "arXiv:2503.20083"),
    Claim("ernie_tiny", "forward_kl", "arXiv:2106.02241"),
    Claim("logit_standardization", "forward_kl", "the paper of logit standardization"),
    Claim("aopd", "opd", "the paper of AOPD"),
    Claim("kat", "opd", "the paper of KAT: shorter rollouts lose nothing", as_good=True),
    Claim("kat", "opd", "the paper of KAT: shorter rollouts", "tokens written"),
    Claim("rlad_trrd", "opd", "the paper of RLAD"),
    Claim("kepo", "opd", "the paper of KEPO"),
    Claim("sod", "opd", "the paper of SOD"),
    Claim("tsd_kd", "gkd", "the paper of TSD-KD"),
    Claim("simct", "opd", "one tokenizer is its limit", as_good=True),
    Claim("multi_granularity_revision", "gkd", "the paper of multi-granularity revision"),
    Claim("arkd", "forward_kl", "the paper of ARKD"),
    Claim("bd_kd", "forward_kl", "the paper of BD-KD"),
    Claim("kd_aif", "forward_kl", "the paper of KD-AIF"),
    Claim("pld", "forward_kl", "the paper of PLD"),
    Claim("tgeo_kd", "forward_kl", "the paper of TGeo-KD"),
)


def verdict(claim: Claim, gap: Interval) -> str:
    """What came out, of the difference ``better`` less ``than`` in the figure, its sign turned where less is better."""
    if claim.as_good:
        if gap.low >= -MARGIN:
            return "appeared"
        return "the contrary appeared" if gap.high < -MARGIN else "undecided"
    if gap.low > 0:
        return "appeared"
    if gap.high < 0:
        return "the contrary appeared"
    return "leaned this way, not significantly" if gap.mean > 0 else "did not appear"


def judged(figures: Figures, claims: Sequence[Claim] = CLAIMS, arm: str = UPDATES) -> list[dict[str, Any]]:
    """Every claim about recipes that were measured in an arm."""
    out = []
    for claim in claims:
        if not {claim.better, claim.than} <= set(figures.recipes(arm)):
            continue
        gap = figures.gap(arm, claim.better, claim.than, claim.figure)
        gap = gap.turned() if claim.figure in LOWER else gap
        word = verdict(claim, gap)
        bounds = f"{gap.low:+.3f} to {gap.high:+.3f}" if math.isfinite(gap.low) else "one seed"
        told = {"claim": claim.text, "source": claim.source, "verdict": word, "arm": arm}
        out.append({**told, "better by": f"{gap.mean:+.3f} ({bounds})"})
    return out
