"""Exact match of texts, after a normalisation that says what does not count."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from ...core.record import Record
from .grade import answer, field_of


@dataclass(frozen=True)
class Exact:
    """1 if the answer is one of the reference texts, else 0.

    Args:
        field: The field with the reference: a text, or a list of texts any of which is right.
        plain: Compare without case, punctuation, articles and runs of white space, as SQuAD does (arXiv:1606.05250);
            otherwise only white space at the ends is left out.
    """

    field: str = "reference"
    plain: bool = True

    def __call__(self, record: Record) -> float:
        wanted = field_of(record, self.field)
        wanted = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        form = normalised if self.plain else str.strip
        return float(form(answer(record)) in {form(str(w)) for w in wanted})


def normalised(text: str) -> str:
    """Without case, accents' encoding, punctuation, articles and runs of white space."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(" " if unicodedata.category(c)[0] == "P" else c for c in text)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())
