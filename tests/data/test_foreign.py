"""Foreign views: the same text in another tokenizer's ids, aligned by bytes in collate."""

from __future__ import annotations

import random
import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core.errors import DataError, SettingError
from tutelage.core.record import Piece, Record
from tutelage.data.collate import Collate
from tutelage.data.foreign import retold, share
from tutelage.data.render import render
from tutelage.models.spelling import spelling

KIT = runpy.run_path(str(Path(__file__).parents[1] / "voices" / "kit.py"))


@pytest.fixture(scope="module")
def bytes_():
    return KIT["byte_tokenizer"]()


@pytest.fixture(scope="module")
def bpe():
    return KIT["bpe_tokenizer"]()


def talk(name, *turns):
    return Record(name, tuple(Piece(t, "assistant" if i % 2 else "user", trains=bool(i % 2)) for i, t in enumerate(turns)))


def text(name, prompt, answer, **more):
    return Record(name, (Piece(prompt), Piece(answer, trains=True, **more)))


ROWS = [
    talk("a", "Say the sum.", "one two three"),
    talk("b", "Naïvely?", "é 日本語 🙂👍🏽 ok", "And the code?", "def add(a, b):\n    return a + b"),
    talk("c", "x", "a"),
]


def chunk_texts(batch, view, own, other):
    """By chunk, its bytes by both tokenisations; END for what ends an answer."""
    out = []
    for over, tokenizer in (("tokens", own), (view, other)):
        units, table = batch.units[over], spelling(tokenizer)
        texts = [b""] * len(batch.units[f"{view}.chunks"])
        for home, target in zip(units.part_of[f"{view}.chunks"].tolist(), units.target.tolist(), strict=True):
            if home >= 0:
                texts[home] += b"END" if target == tokenizer.eos_token_id else table[target]
        out.append(texts)
    return out


@pytest.mark.parametrize("how", [{}, {"padding": "left"}, {"pack": True}], ids=["right", "left", "packed"])
def test_chunks_are_the_same_text_on_both_sides(bytes_, bpe, how):
    batch = Collate(bytes_, 256, foreign={"teacher": bpe}, **how)(ROWS)
    mine, theirs = chunk_texts(batch, "teacher", bytes_, bpe)
    assert mine == theirs and all(mine)
    row = batch.units["teacher.chunks"].row
    for r, record in enumerate(ROWS):
        said = b"".join(t for t, at in zip(mine, row.tolist(), strict=True) if at == r)
        assert said == b"".join(p.content.encode() + b"END" for p in record.trained())
    # the outputs that predict the units stand just before them
    for view, over in (("main", "tokens"), ("teacher", "teacher")):
        ids = batch.views[view].inputs["input_ids"].flatten()
        assert torch.equal(ids[batch.views[view].at + 1], batch.units[over].target)


def test_pieces_do_not_touch_and_the_end_touches_its_text(bytes_, bpe):
    batch = Collate(bytes_, 256, foreign={"teacher": bpe})(ROWS[1:2])
    chunks = batch.units["teacher.chunks"]
    mine, _ = chunk_texts(batch, "teacher", bytes_, bpe)
    steps = chunks.time.diff().tolist()
    first_end = mine.index(b"END")
    assert steps[first_end] == 2 and steps[first_end - 1] == 1 and steps.count(2) == 1


def test_template_and_prompt_are_the_teachers_own(bytes_, bpe):
    batch = Collate(bytes_, 256, foreign={"teacher": bpe})(ROWS[:1])
    assert bpe.decode(batch.views["teacher"].inputs["input_ids"][0]).startswith("<bos><start_of_turn>user\nSay the sum.<end_of_turn>")


def test_same_tokenizer_gives_a_chunk_a_token(bpe):
    batch = Collate(bpe, 256, foreign={"teacher": KIT["bpe_tokenizer"]()})(ROWS)
    tokens, foreign = batch.units["tokens"], batch.units["teacher"]
    assert torch.equal(tokens.target, foreign.target) and len(batch.units["teacher.chunks"]) == len(tokens)
    for units in (tokens, foreign):
        assert torch.equal(units.part_of["teacher.chunks"], torch.arange(len(tokens)))


def test_written_ids_are_kept_and_their_bytes_are_read_by_the_teacher(bytes_, bpe):
    """Ids that a model wrote are never tokenised again; half a character at their end is in no chunk."""
    ids = tuple(bytes_("the cat 🙂", add_special_tokens=False)["input_ids"])
    whole = text("w", "Say: ", "ignored", ids=(*ids, bytes_.eos_token_id), stop="eos")
    batch = Collate(bytes_, 128, foreign={"teacher": bpe})([whole])
    mine, theirs = chunk_texts(batch, "teacher", bytes_, bpe)
    assert b"".join(mine) == "the cat 🙂END".encode() and mine == theirs
    assert batch.units["tokens"].target.tolist() == [*ids, bytes_.eos_token_id]
    half = text("h", "Say: ", "ignored", ids=ids[:-2], stop="length")
    batch = Collate(bytes_, 128, foreign={"teacher": bpe})([half])
    mine, theirs = chunk_texts(batch, "teacher", bytes_, bpe)
    assert mine == theirs and b"".join(mine) == b"the cat "
    assert batch.units["tokens"].part_of["teacher.chunks"].tolist()[-2:] == [-1, -1]


def test_a_cut_answer_gets_no_end(bytes_, bpe):
    ids = tuple(bytes_("the cat", add_special_tokens=False)["input_ids"])
    for stop, ends in (("length", False), ("eos", True)):
        piece = {"ids": (*ids, bytes_.eos_token_id) if ends else ids, "stop": stop}
        told = retold(text("w", "Say: ", "", **piece), bytes_)
        segments = render(told, bpe)
        assert told.pieces[1].content == "the cat" and told.pieces[1].ids is None
        assert (segments[-1].ids[-1] == bpe.eos_token_id) == ends == bool(segments[-1].num_end)


@pytest.mark.parametrize("max_length", [24, 31, 40])
def test_what_is_cut_on_either_side_is_in_no_chunk(bytes_, bpe, max_length):
    row = text("long", "Say it: ", "one two three four five six seven eight nine ten")
    batch = Collate(bytes_, max_length, foreign={"teacher": bpe})([row])
    mine, theirs = chunk_texts(batch, "teacher", bytes_, bpe)
    assert mine == theirs and b"".join(mine) and row.pieces[1].content.encode().startswith(b"".join(mine))
    assert len(b"".join(mine)) <= max_length - 8


def test_a_first_token_that_nothing_predicts_is_in_no_chunk(bytes_, bpe):
    """Card, check 4: the first token has no prediction; no chunk contains it."""
    whole = Record("t", (Piece("the cat sat", trains=True),))
    batch = Collate(bytes_, 64, foreign={"teacher": bpe})([whole])
    mine, theirs = chunk_texts(batch, "teacher", bytes_, bpe)
    first = spelling(bpe)[bpe("the cat sat")["input_ids"][0]]
    assert b"".join(mine) == b"the cat sat"[len(first) :] and mine == theirs
    other = Collate(bytes_, 64, foreign={"teacher": bpe})([Record("t", (Piece("Xhe cat sat", trains=True),))])
    assert chunk_texts(other, "teacher", bytes_, bpe)[0][-2:] == mine


def test_random_rows(bytes_, bpe):
    rng = random.Random(3)
    collate = Collate(bytes_, 4096, foreign={"teacher": bpe})
    for number in range(150):
        row = text(str(number), "Say: ", KIT["random_text"](rng))
        batch = collate([row])
        mine, theirs = chunk_texts(batch, "teacher", bytes_, bpe)
        assert [t.replace(b"END", b"") for t in mine if t != b"END"] == [t.replace(b"END", b"") for t in theirs if t != b"END"] or "<" in row.pieces[1].content
        assert -1 not in batch.units["tokens"].part_of["teacher.chunks"].tolist()


def test_two_foreign_views(bytes_, bpe):
    pieces = KIT["piece_tokenizer"]()
    rows = [text("a", "Say: ", "the cat on a mat"), text("b", "Say: ", "one")]
    batch = Collate(bytes_, 64, foreign={"one": bpe, "two": pieces})(rows)
    assert {"one", "one.chunks", "two", "two.chunks"} <= set(batch.units) and set(batch.views) == {"main", "one", "two"}
    assert len(batch.units["tokens"].part_of) == 3 and batch.to(torch.device("cpu")).units["one"].part_of


def test_nothing_in_common_is_an_error_that_shows_both(bytes_):
    loud = KIT["shouting_tokenizer"]()
    with pytest.raises(DataError) as caught:
        Collate(bytes_, 64, foreign={"teacher": loud})([text("a", "Say: ", "the cat sat")])
    assert "b'the cat sat" in caught.value.got and "b'!!!!" in caught.value.got and "'a'" in caught.value.where
    assert "seqkd" in caught.value.remedy


def test_rewritten_parts_drop_out_and_the_rest_stays(bytes_):
    lower = KIT["rewriting_tokenizer"]()
    row = text("a", "Say: ", "one TWO three")
    batch = Collate(bytes_, 64, foreign={"teacher": lower})([row])
    mine, theirs = chunk_texts(batch, "teacher", bytes_, lower)
    assert mine == theirs and b"".join(mine).startswith(b"one") and b"".join(mine).endswith(b"threeEND") and b"TWO" not in b"".join(mine)


def test_prompts_that_do_not_fit_the_foreign_view_are_named(bytes_, bpe):
    row = text("a", "é" * 20, "b")
    with pytest.raises(DataError, match="in view 'teacher'"):
        Collate(bpe, 50, foreign={"teacher": bytes_})([text("x", "the the the the the the the the the the the the the the", "b")])
    assert Collate(bytes_, 64, foreign={"teacher": bpe})([row])


def test_reserved_names(bytes_, bpe):
    for name in ("main", "tokens", "rows"):
        with pytest.raises(SettingError, match="foreign"):
            Collate(bytes_, 64, foreign={name: bpe})
    with pytest.raises(SettingError):
        Collate(bytes_, 64, {"hint": lambda r: r}, foreign={"hint": bpe})


def test_share_counts_what_both_spell(bytes_, bpe):
    record = ROWS[0]
    shared = share(record, render(record, bytes_), bytes_, bpe)
    assert len(shared.one) == len("one two three") + 1 and max(shared.other) == len(shared.places) - 1
