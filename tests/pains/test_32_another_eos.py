"""Pain 32: a base student and an instruct teacher end answers with other ids: elsewhere answers grow without bound in a
few dozen steps."""

from __future__ import annotations

import pytest

from tutelage.core.errors import ModelError
from tutelage.models.agree import agree


def test_other_stop_ids_are_named(tiny_pair, new_causal, new_tokenizer) -> None:
    student = new_causal("base", tokenizer=new_tokenizer(chat=False))
    with pytest.raises(ModelError) as caught:
        agree(tiny_pair.teacher, student)
    assert "2 '<|im_end|>' and 0 '<|endoftext|>'" in caught.value.got
    assert "eos_token_id to 2" in caught.value.remedy
    agree(tiny_pair.teacher, student, adopt=True)
    assert student.stop_ids == tiny_pair.teacher.stop_ids == (2,)
    assert student.tokenizer.eos_token_id == 2


def test_a_list_in_one_generation_config_alone(tiny_pair) -> None:
    tiny_pair.teacher.inner.generation_config.eos_token_id = [2, 0]
    with pytest.raises(ModelError, match=r"eos_token_id to \[0, 2\]"):
        agree(tiny_pair.teacher, tiny_pair.student)
    tiny_pair.student.inner.generation_config.eos_token_id = [0, 2]
    assert set(agree(tiny_pair.teacher, tiny_pair.student).stop_ids) == {0, 2}


def test_same_stop_ids_and_another_eos_token(tiny_pair, new_tokenizer) -> None:
    tiny_pair.student.tokenizer = new_tokenizer()
    tiny_pair.student.tokenizer.eos_token = "<|endoftext|>"
    with pytest.raises(ModelError, match="EOS 2 and 0"):
        agree(tiny_pair.teacher, tiny_pair.student)
