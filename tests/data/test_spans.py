"""Spans against their definition: every set of tokens on both sides with the same bytes, and no finer one."""

from __future__ import annotations

import itertools
import random
import runpy
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tutelage.data.spans import NOWHERE, align
from tutelage.models.spelling import opens, spelling

KIT = runpy.run_path(str(Path(__file__).parents[1] / "voices" / "kit.py"))
random_text = KIT["random_text"]


def cut(text: bytes, at: list[int]) -> list[bytes]:
    points = sorted({0, len(text), *(a % (len(text) + 1) for a in at)})
    return [text[a:b] for a, b in itertools.pairwise(points)]


def joined(tokens, homes, span):
    return b"".join(t for t, h in zip(tokens, homes, strict=True) if h == span)


def spelled(tokenizer, text):
    table = spelling(tokenizer)
    return [table[i] for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


@pytest.fixture(scope="module")
def tokenizers():
    return {"bytes": KIT["byte_tokenizer"](), "bpe": KIT["bpe_tokenizer"](), "pieces": KIT["piece_tokenizer"](), "bare": KIT["piece_tokenizer"](False)}


@given(st.binary(min_size=1, max_size=40), st.lists(st.integers(0, 60), max_size=9), st.lists(st.integers(0, 60), max_size=9))
def test_spans_are_the_finest_that_tile_the_text(text, one, other):
    one, other = cut(text, one), cut(text, other)
    spans = align(one, other)
    assert [joined(one, spans.one, s) for s in range(len(spans.places))] == [joined(other, spans.other, s) for s in range(len(spans.places))]
    assert b"".join(joined(one, spans.one, s) for s in range(len(spans.places))) == text
    assert spans.places == list(range(len(spans.places))) and NOWHERE not in spans.one + spans.other
    ends = [set(itertools.accumulate(map(len, x))) for x in (one, other)]
    assert len(spans.places) == len(ends[0] & ends[1])


@example(b"\0", b"\0\0", [], [])
@example(b"xy", b"xzxy", [1], [3])
@example(b"xzxy", b"xy", [3], [1])
@given(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=20), st.lists(st.integers(0, 40), max_size=9), st.lists(st.integers(0, 40), max_size=9))
def test_texts_that_differ_share_only_what_is_alike(a, b, one, other):
    one, other = cut(a, one), cut(b, other)
    spans = align(one, other)
    sides = [[joined(x, h, s) for s in range(len(spans.places))] for x, h in ((one, spans.one), (other, spans.other))]
    if a not in (b, b" " + b) and b != b" " + a:
        assert sides[0] == sides[1] and all(sides[0])
    assert spans.places == sorted(set(spans.places))


def test_what_lies_between_is_left_out():
    spans = align([b"ab", b"c", b"XX", b"de", b"f"], [b"a", b"b", b"c", b"Y", b"d", b"ef"])
    assert spans.one == [0, 1, NOWHERE, 2, 2] and spans.other == [0, 0, 1, NOWHERE, 2, 2]
    assert spans.places == [0, 1, 3], "the gap keeps the two sides of it apart"


def test_a_space_that_a_tokenizer_puts_in_front_counts_for_nothing():
    for flip in (False, True):
        sides = [[b" yes", b" no"], [b"y", b"es", b" no"]]
        spans = align(*(sides[::-1] if flip else sides))
        assert spans.places == [0, 1] and sorted(spans.one + spans.other) == [0, 0, 0, 1, 1]


def test_tokens_without_bytes_go_with_the_one_before():
    spans = align([b"", b"a", b"", b"b"], [b"a", b"b"])
    assert spans.one == [0, 0, 0, 1] and spans.other == [0, 1]


def test_nothing_to_align():
    assert align([], []) == align([b""], [b""]).__class__([], [], [])
    assert align([b"abc"], [b"xyz"]).places == []


def tiles(tokenizers, rng):
    """One random text through all pairs of tokenizers; the spans' texts joined are the text."""
    text = random_text(rng)
    raw = text.encode()
    tokens = {name: spelled(t, text) for name, t in tokenizers.items()}
    for name in ("bytes", "bpe"):
        assert b"".join(tokens[name]) == raw, (name, text)
    for one, other in itertools.combinations(tokens, 2):
        spans = align(tokens[one], tokens[other])
        if "pieces" not in (one, other) and "bare" not in (one, other):
            assert b"".join(joined(tokens[one], spans.one, s) for s in range(len(spans.places))) == raw
        for s in range(len(spans.places)):
            left, right = joined(tokens[one], spans.one, s), joined(tokens[other], spans.other, s)
            assert left == right or (s == 0 and left.strip() == right.strip())
    return len(text)


def test_2000_random_texts_tile(tokenizers):
    rng = random.Random(0)
    assert sum(tiles(tokenizers, rng) for _ in range(2000)) > 20_000


@pytest.mark.slow
def test_10000_random_texts_tile(tokenizers):
    rng = random.Random(1)
    for _ in range(10_000):
        tiles(tokenizers, rng)


def test_spelling_of_special_tokens_and_of_all_bytes(tokenizers):
    for tokenizer in tokenizers.values():
        table = spelling(tokenizer)
        assert table[tokenizer.eos_token_id] == tokenizer.eos_token.encode()
        assert {bytes([b]) for b in range(256)} <= set(table)
        assert len(table) == len(tokenizer)
    text = "naïve 🙂"
    assert b"".join(spelled(tokenizers["pieces"], text)) == b" " + text.encode()


def test_words_begin_with_white_space_or_a_special_token(tokenizers):
    bpe = tokenizers["bpe"]
    flags = opens(bpe)
    shown = {token: flags[i] for token, i in bpe.get_vocab().items()}
    assert shown["Ġthe"] and shown["<end_of_turn>"] and shown["Ċ"] and not shown["t"] and not shown["!"]
    assert opens(tokenizers["pieces"])[tokenizers["pieces"].get_vocab()["\u2581a"]]
