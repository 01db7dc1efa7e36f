"""Elsewhere the last max_length tokens were kept: long traces lost the whole prompt."""

import pytest

from tutelage.core.errors import DataError
from tutelage.data.collate import Collate, Cut
from tutelage.data.render import prompt_ids


def test_the_end_of_the_answer_is_cut_and_counted(kit, tokenizer):
    record = kit.chat("a", "what is two and two?", "1 2 3 4 5 6 7 8 9 " * 10)
    prompt = prompt_ids(record, tokenizer)
    whole = Collate(tokenizer, 1000)([record]).units["tokens"].target.tolist()
    collate = Collate(tokenizer, len(prompt) + 12)
    batch = collate([record])
    ids = batch.views["main"].inputs["input_ids"][0].tolist()
    assert ids == prompt + whole[:12]
    assert batch.units["tokens"].target.tolist() == whole[:12] and tokenizer.eos_token_id not in whole[:12]
    assert collate.report([record]) == Cut(1, len(whole) - 12)


def test_a_prompt_that_does_not_fit_is_refused(kit, tokenizer):
    record = kit.chat("row 3", "what is two and two?", "four")
    length = len(prompt_ids(record, tokenizer))
    assert len(Collate(tokenizer, length + 1)([record]).units["tokens"]) == 1
    with pytest.raises(DataError, match=f"record 'row 3': got a prompt of {length} tokens.*Raise max_length"):
        Collate(tokenizer, length)([record])
