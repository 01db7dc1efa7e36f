"""Sentences: character spans that tile a text, cut where a writer pauses."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass

Span = tuple[int, int]

CLOSERS = "\"'”’»)\\]}*_`$"
# A full stop needs white space behind it, so 3.14, example.org and a.b() hold together; its fullwidth form does not.
PAUSE = re.compile(rf"[.!?…]+[{CLOSERS}]*(?=\s|\Z)|[。！？｡]+[”’』」）】]*|(?=\n)")
BREAKS = re.compile(r"(?:[^\S\n]*\n)+")
FENCE = re.compile(r"^[^\S\n]*(?:```|~~~)", re.MULTILINE)
NUMBERING = re.compile(r"(?:\d+|[ivxlIVXL]+|[A-Za-z])")
# Abbreviations that something follows; "etc." is not one: a capital letter behind it begins a sentence.
SHORT = re.compile(
    r"al|approx|bzw|ca|cf|dr|eds|eqs?|figs?|i\.e|e\.g|jr|mr|mrs|ms|prof|refs?|resp|sr|vs|z\.b", re.IGNORECASE
)
COUNTED = re.compile(r"ch|nos?|pp?|sec|vol", re.IGNORECASE)  # abbreviations if a digit follows, words if not


@dataclass(frozen=True)
class Sentences:
    """Cuts a text into sentences: spans ``(start, end)`` in characters, none empty, that joined are the whole text.

    A sentence ends after ``.``, ``!``, ``?`` or ``…`` (with the quotes and brackets that close there) if white space
    and no lower-case letter follows, after their fullwidth forms, and at each line break. Not after abbreviations,
    initials and the number of a list item; inside a fenced block of code only lines end. Line breaks belong to the
    sentence before them, and spaces to the one behind them: so does the token of most tokenizers that begins with one.
    What holds no letter and no digit belongs to the sentence before it.
    """

    def __call__(self, text: str) -> list[Span]:
        """The spans; none for an empty text."""
        cuts = [*_cuts(text), len(text)]
        spans: list[Span] = []
        start = 0
        for end in cuts:
            bare = not any(c.isalnum() for c in text[start:end])
            if bare and spans:
                spans[-1] = (spans[-1][0], end)
                start = end
            elif not bare or (end == len(text) and start < end):
                spans.append((start, end))
                start = end
        return spans


def _cuts(text: str) -> Iterator[int]:
    """Where sentences end, in order."""
    fences = [m.start() for m in FENCE.finditer(text)]
    done = 0
    for pause in PAUSE.finditer(text):
        breaks = BREAKS.match(text, pause.end())
        end = breaks.end() if breaks else pause.end()
        in_code = bisect(fences, pause.start()) % 2 == 1
        if end > done and (breaks or not (in_code or _goes_on(text, done, pause))):
            yield end
            done = end


def _goes_on(text: str, start: int, pause: re.Match[str]) -> bool:
    """Whether a sentence goes on behind what looks like its end."""
    rest = text[pause.end() :].lstrip()
    if rest[:1].islower():
        return True
    if pause.group()[:2] != ".":
        return False
    line = text[start : pause.start()].rpartition("\n")[2]
    words = line.split()
    last = words[-1].lstrip("([{\"'*_") if words else ""
    if len(words) == 1 and NUMBERING.fullmatch(last):
        return True
    initial = len(last) == 1 and last.isupper() and words[-2:-1] != [] and words[-2][:1].isupper()
    counts = COUNTED.fullmatch(last) is not None and rest[:1].isdigit()
    return initial or counts or SHORT.fullmatch(last) is not None
