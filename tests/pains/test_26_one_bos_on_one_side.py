"""Pain 26: elsewhere decoded buffers were aligned, so one BOS on one side shifted every token into a single group, and the
decoding stood in the hot loop. Here only the bytes of trained pieces are aligned, and that is a small part of a step."""

from __future__ import annotations

import runpy
from pathlib import Path
from time import perf_counter

import pytest
import torch

from tutelage.data.collate import Collate

KIT = runpy.run_path(str(Path(__file__).parents[1] / "voices" / "kit.py"))


@pytest.fixture(scope="module")
def bytes_():
    return KIT["byte_tokenizer"](template=None)


def test_a_bos_on_one_side_moves_no_chunk(bytes_):
    from tokenizers import processors

    plain, begins = KIT["bpe_tokenizer"](), KIT["bpe_tokenizer"]()
    begins.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", begins.bos_token_id)]
    )
    row = KIT["text_row"]("a", "Say it: ", "the cat sat on the mat")
    batches = [Collate(bytes_, 128, foreign={"teacher": t})([row]) for t in (plain, begins)]
    ids = [b.views["teacher"].inputs["input_ids"][0].tolist() for b in batches]
    assert ids[1] == [begins.bos_token_id, *ids[0]]
    for over in ("tokens", "teacher"):
        homes = [b.units[over].part_of["teacher.chunks"] for b in batches]
        assert torch.equal(*homes) and int(homes[0].max()) >= 5


def test_alignment_is_a_small_part_of_a_step(bytes_):
    """What it adds to collate, against one pass of even a tiny model over the same rows; of real models it is less."""
    bpe = KIT["bpe_tokenizer"]()
    model = KIT["causal"]("student", bytes_, layers=4, hidden_size=128, intermediate_size=512)
    rows = [KIT["text_row"](str(i), "Say it: ", "the cat sat on the mat and one two three four " * 5) for i in range(8)]
    own, theirs, both = Collate(bytes_, 512), Collate(bpe, 512), Collate(bytes_, 512, foreign={"teacher": bpe})
    model.model.requires_grad_(True)

    def seconds(work):
        times = []
        for _ in range(5):
            start = perf_counter()
            work()
            times.append(perf_counter() - start)
        return min(times)

    def step():
        model.predict(own(rows).views["main"], frozenset({"pooled"}))["pooled"].sum().backward()

    added = seconds(lambda: both(rows)) - seconds(lambda: own(rows)) - seconds(lambda: theirs(rows))
    assert added < 0.05 * seconds(step)
