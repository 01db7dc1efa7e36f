"""Figures of written answers: exact and numeric match, diversity, length, repetition."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from fractions import Fraction
from statistics import fmean, quantiles

Tokens = Sequence[Hashable]

_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-+]\s?(?=[$€£])|[-+])?\s?[$€£]?(?P<sign2>[-+])?"
    rf"(?:(?P<whole>\d+)\s(?P<mtop>\d+)/(?P<mbottom>0*[1-9]\d*)(?![\d/])"
    rf"|\\[dt]?frac\{{(?P<ltop>\d+)\}}\{{(?P<lbottom>0*[1-9]\d*)\}}"
    rf"|(?P<top>{_UNSIGNED})\s?/\s?(?P<bottom>0*[1-9]\d*)(?![\d/]|\.\d)"
    rf"|(?P<plain>{_UNSIGNED})(?P<power>[eE][-+]?\d{{1,2}}(?!\d))?)"
)
_MAX_DIGITS = 400  # longer strings of digits are loops, not answers, and Python refuses to convert the longest


def exact_match(answer: str, reference: str) -> bool:
    """True if both are the same text up to surrounding and repeated whitespace."""
    return answer.split() == reference.split()


def last_number(text: str) -> Fraction | None:
    r"""The number an answer ends on, exactly: after the last ``####`` if there is one, else the last in the text.

    Knows signs, thousands separators, decimals, powers of ten, fractions (``3/4``, ``1 1/2``, ``\frac{3}{4}``) and
    skips units ($, %, words). A minus that follows a digit or a letter is a subtraction, not a sign.
    """
    marked = text.rsplit("####", 1)
    found = _numbers(marked[-1]) if len(marked) == 2 else []
    # what follows the mark is the answer: its first number, so that trailing remarks do not count
    return found[0] if found else (_numbers(text) or [None])[-1]


def numeric_match(answer: str, reference: str, tolerance: float = 0.0) -> bool:
    """True if both end on the same number.

    Args:
        answer: What the model wrote.
        reference: The right answer, for example GSM8K's worked answer with ``#### 18``.
        tolerance: The largest relative difference that still counts, >= 0.
    """
    got, expected = last_number(answer), last_number(reference)
    if got is None or expected is None:
        return False
    return abs(got - expected) <= Fraction(tolerance) * abs(expected)


def _numbers(text: str) -> list[Fraction]:
    text = text.replace("\u2212", "-").replace("\u00a0", " ")
    return [value for m in _NUMBER.finditer(text) if (value := _value(m)) is not None]


def _value(m: re.Match[str]) -> Fraction | None:
    if len(m.group()) > _MAX_DIGITS:
        return None
    if m["whole"]:
        value = int(m["whole"]) + Fraction(int(m["mtop"]), int(m["mbottom"]))
    elif m["ltop"]:
        value = Fraction(int(m["ltop"]), int(m["lbottom"]))
    elif m["top"]:
        value = _decimal(m["top"]) / int(m["bottom"])
    else:
        value = _decimal(m["plain"] + (m["power"] or ""))
    negative = "-" in ((m["sign"] or "") + (m["sign2"] or ""))
    return -value if negative else value


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def ngrams(tokens: Tokens, n: int) -> Counter[tuple[Hashable, ...]]:
    """How often each n-gram occurs."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def distinct(answers: Sequence[Tokens], n: int = 2) -> float:
    """Different n-grams over all n-grams of all answers, in [0, 1]; nan if there is none."""
    total: Counter[tuple[Hashable, ...]] = Counter()
    for tokens in answers:
        total.update(ngrams(tokens, n))
    return len(total) / total.total() if total else math.nan


def repetition_share(tokens: Tokens, n: int = 4) -> float:
    """The share of n-grams that occurred earlier in the same answer, in [0, 1); 0 if it is shorter than n."""
    counts = ngrams(tokens, n)
    return 1 - len(counts) / counts.total() if counts else 0.0


def bleu(answer: Tokens, references: Sequence[Tokens], order: int = 4) -> float:
    """``BP * exp(mean_n log precision_n)`` of one answer, in [0, 1], unsmoothed.

    Precisions are clipped by the largest count in one reference; n runs to ``order`` or the answer's length if that
    is less; BP compares with the reference closest in length (the shorter of two equally close).
    """
    best = [_most([ngrams(r, n) for r in references]) for n in range(1, order + 1)]
    return _bleu(answer, best, [len(r) for r in references], order)


def self_bleu(answers: Sequence[Tokens], order: int = 4) -> float:
    """The mean BLEU of each answer against all others, in [0, 1]: 1 if all say the same; nan for fewer than two."""
    if len(answers) < 2:
        return math.nan
    # the two largest counts of each n-gram, and the owner of the largest, give "the largest among the others" at once
    best: list[dict[tuple[Hashable, ...], tuple[int, int, int]]] = [{} for _ in range(order)]
    for owner, tokens in enumerate(answers):
        for n in range(1, order + 1):
            for gram, count in ngrams(tokens, n).items():
                first, who, second = best[n - 1].get(gram, (0, -1, 0))
                new = (count, owner, first) if count > first else (first, who, max(second, count))
                best[n - 1][gram] = new
    scores = []
    for owner, tokens in enumerate(answers):
        others = [_others(ngrams(tokens, n), best[n - 1], owner) for n in range(1, order + 1)]
        scores.append(_bleu(tokens, others, [len(a) for i, a in enumerate(answers) if i != owner], order))
    return fmean(scores)


def _others(
    own: Counter[tuple[Hashable, ...]], best: dict[tuple[Hashable, ...], tuple[int, int, int]], owner: int
) -> dict[tuple[Hashable, ...], int]:
    return {g: best[g][2] if best[g][1] == owner else best[g][0] for g in own}


def _most(counts: Sequence[Counter[tuple[Hashable, ...]]]) -> dict[tuple[Hashable, ...], int]:
    most: Counter[tuple[Hashable, ...]] = Counter()
    for c in counts:
        most |= c
    return dict(most)


def _bleu(answer: Tokens, best: Sequence[dict[tuple[Hashable, ...], int]], lengths: Sequence[int], order: int) -> float:
    if not answer or not lengths:
        return 0.0
    logs = []
    for n in range(1, min(order, len(answer)) + 1):
        counts = ngrams(answer, n)
        hit = sum(min(c, best[n - 1].get(g, 0)) for g, c in counts.items())
        if hit == 0:
            return 0.0
        logs.append(math.log(hit / counts.total()))
    closest = min(lengths, key=lambda size: (abs(size - len(answer)), size))
    penalty = 1.0 if len(answer) >= closest else math.exp(1 - closest / len(answer))
    return penalty * math.exp(fmean(logs))


def length_stats(lengths: Sequence[int]) -> dict[str, float]:
    """``num``, ``mean``, ``median``, ``p95`` and ``max`` of answer lengths; empty without an answer."""
    if not lengths:
        return {}
    cuts = quantiles(lengths, n=20, method="inclusive") if len(lengths) > 1 else [float(lengths[0])] * 19
    return {"num": len(lengths), "mean": fmean(lengths), "median": cuts[9], "p95": cuts[18], "max": max(lengths)}
