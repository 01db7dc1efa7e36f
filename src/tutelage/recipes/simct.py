"""SimCT: on-policy distillation from a teacher with another tokenizer, spans of text included."""

from typing import Literal

from ..core.errors import unknown
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Read
from ..core.term import Term, Update
from ..signals.chunks import RunSum
from ..signals.divergences import kl_reverse
from ..signals.match import Match
from ..signals.parts import AtFirst, PartFirst, Within
from ..signals.spans import AfterSingle, Led, Single, WithSpan, odds
from ..voices.align import Aligned, Common
from . import base

SPANS, SCORES = ("minimal", "released", "none"), ("logits", "log_probs")


@recipe(
    paper="arXiv:2605.07711",
    family="cross-tokenizer",
    formula="KL(q || p) over the tokens that both tokenizers spell and, where the text is cut differently, the span of "
    "text as one entry more, whose score is the mean of its tokens' logits; a mean over the student's tokens",
    differs=(
        "Spans end wherever both tokenizations do, which is what the paper states; the released code lets a span run "
        "on through the next token that both cut alike (spans='released').",
        "Text is aligned by bytes; the released code decodes token by token, which breaks characters of several "
        "tokens.",
        "A loss with the student's own answers as labels, whose share is 0 by default in the released code, is left "
        "out.",
    ),
    axes={"writer": "student", "divergence": "reverse KL", "gradient": "supervised"},
)
def simct(
    *,
    spans: Literal["minimal", "released", "none"] = "minimal",
    score: Literal["logits", "log_probs"] = "logits",
    max_tokens: int = 128,
    temperature: float = 0.6,
    reuse: int = 1,
) -> Recipe:
    """Correct the student on its own answers by a teacher that reads them in other tokens.

    Args:
        spans: `minimal` ends a span as soon as both tokenizations end there, `released` as the paper's code does,
            `none` trains single tokens alone.
        score: A span's score: the mean of its tokens' `logits`, as published, or of their `log_probs`, which a constant
            added to a row of logits does not change.
        max_tokens: The longest answer.
        temperature: Of the student's sampling; the loss is at temperature 1.
        reuse: Optimiser steps that use each round of answers; above 1 they are slightly stale.

    Limits:
        two models of one tokenizer: opd.
        spans=none on text of single tokens: spans=minimal.
    """
    for name, value, choices in (("spans", spans, SPANS), ("score", score, SCORES)):
        if value not in choices:
            raise unknown(f"simct.{name}", value, choices)
    teacher = Aligned("teacher")
    chunks, own, others = teacher.chunks, Read(), Read("teacher", over=teacher.sees)
    q = Read(through=(Common("student", "teacher", rest=False),))
    p = Read("teacher", through=(Common("teacher", "student", rest=False), Led(teacher.sees, chunks)))
    single, inside = Single(chunks), PartFirst(Match(kl_reverse, q, p), chunks)
    loss = single * inside
    if spans != "none":
        starts = AfterSingle(single) if spans == "released" else None
        how = {"raw": score == "logits", "starts": starts}
        alone = single if starts is None else single * starts
        loss = WithSpan(inside, odds(own, "teacher", chunks, **how), odds(others, "student", chunks, **how), alone)
        if starts is not None:  # a run that no single chunk ends is no span
            loss = loss * RunSum(single, starts)
    live = base.rollouts(max_tokens=max_tokens, temperature=temperature, reuse=reuse)
    update = Update((Term("spans", AtFirst(loss)),), watch=(("aligned", Within(chunks)),))
    return Recipe((Train("train", live, (update,), voices={"teacher": teacher}),))
