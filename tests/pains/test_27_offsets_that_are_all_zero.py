"""Pain 27: elsewhere byte offsets came out as (0, 0) without a word, so alignment fell back to counting positions, and
SentencePiece needed a mode of its own. Here offsets are sums of the tokens' own bytes, checked against the text."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core.errors import DataError
from tutelage.data.collate import Collate

KIT = runpy.run_path(str(Path(__file__).parents[1] / "voices" / "kit.py"))
TEXT = "the naïve cat, 日本 🙂 on a mat"


class Blind:
    """A tokenizer that claims every token to lie at (0, 0)."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, text, **settings):
        out = self.inner(text, **{k: v for k, v in settings.items() if k != "return_offsets_mapping"})
        out["offset_mapping"] = [(0, 0)] * len(out["input_ids"])
        return out


def chunks(own, other):
    batch = Collate(own, 128, foreign={"teacher": other})([KIT["text_row"]("a", "Say: ", TEXT)])
    return [batch.units[over].part_of["teacher.chunks"] for over in ("tokens", "teacher")]


def test_offsets_that_a_tokenizer_claims_are_not_used():
    own, other = KIT["byte_tokenizer"](), KIT["bpe_tokenizer"]()
    for one, two in zip(chunks(own, other), chunks(own, Blind(other)), strict=True):
        assert torch.equal(one, two) and int(one.max()) > 8


@pytest.mark.parametrize("prefix", [True, False], ids=["space in front", "as it is"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_sentencepiece_on_either_side_needs_no_mode(prefix, side):
    pieces, other = KIT["piece_tokenizer"](prefix), KIT["byte_tokenizer"]()
    mine, theirs = chunks(pieces, other) if side == "student" else chunks(other, pieces)
    assert -1 not in mine.tolist() + theirs.tolist(), "every byte, those of half characters too, is in a chunk"
    assert int(mine.max()) > 20


def test_a_tokenizer_that_spells_nothing_alike_is_an_error():
    with pytest.raises(DataError, match="bytes that both spell alike"):
        chunks(KIT["byte_tokenizer"](), KIT["shouting_tokenizer"]())
