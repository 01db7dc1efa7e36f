"""Agreement of teacher and student before the first step."""

from __future__ import annotations

import pytest

from tutelage.core.errors import ModelError
from tutelage.models.agree import agree
from tutelage.models.causal import Causal
from tutelage.models.tokens import tokenizer_hash, vocabulary, vocabulary_hash


def test_a_pair_that_agrees(tiny_pair) -> None:
    found = agree(tiny_pair.teacher, tiny_pair.student)
    assert found.size == len(tiny_pair.tokenizer)
    assert found.stop_ids == (2,)
    assert len(found.notes) == 1
    assert "pad and EOS are both id 2" in found.notes[0]
    assert tiny_pair.student.size is None


def test_other_merges_are_another_tokenizer(tiny_pair, new_tokenizer) -> None:
    tiny_pair.student.tokenizer = with_merges(new_tokenizer, [("t", "h")])
    with pytest.raises(ModelError, match="other merge rules"):
        agree(tiny_pair.teacher, tiny_pair.student)


def with_merges(new_tokenizer, merges: list[tuple[str, str]]):
    from tokenizers.models import BPE

    made = new_tokenizer()
    table = {t: i for i, t in enumerate(vocabulary(made))}
    made.backend_tokenizer.model = BPE(vocab=table, merges=merges)
    return made


def test_another_bos(tiny_pair, new_tokenizer) -> None:
    tiny_pair.student.tokenizer = new_tokenizer()
    tiny_pair.student.tokenizer.bos_token = "<|endoftext|>"
    with pytest.raises(ModelError, match="bos_token"):
        agree(tiny_pair.teacher, tiny_pair.student)


def test_no_tokenizers_need_equal_heads(new_causal) -> None:
    bare = [Causal(str(n), new_causal(vocab_size=n).model) for n in (262, 262, 264)]
    assert agree(bare[0], bare[1]).size == 262
    with pytest.raises(ModelError, match="262 and 264"):
        agree(bare[0], bare[2])
    with pytest.raises(ModelError, match="one without a tokenizer"):
        agree(new_causal(), bare[0])


def test_hashes_see_what_they_name(new_tokenizer) -> None:
    plain, chat, longer = new_tokenizer(chat=False), new_tokenizer(), new_tokenizer(extra=("zz",))
    assert vocabulary_hash(plain) == vocabulary_hash(chat) != vocabulary_hash(longer)
    assert len({tokenizer_hash(t) for t in (plain, chat, longer, with_merges(new_tokenizer, []))}) == 4
    assert tokenizer_hash(chat) == tokenizer_hash(new_tokenizer())
