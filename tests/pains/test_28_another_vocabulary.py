"""Pain 28: student ids fed straight to a teacher with another vocabulary: no error elsewhere, and a loss that means
nothing."""

from __future__ import annotations

import pytest

from tutelage.core.errors import ModelError
from tutelage.models.agree import agree, align


def test_swapped_ids_are_named(tiny_pair, new_causal, new_tokenizer) -> None:
    tokenizer = new_tokenizer()
    text = tokenizer.backend_tokenizer.to_str()
    swapped = text.replace('"!":3', '"!":@').replace('"\\"":4', '"\\"":3').replace("@", "4")
    assert swapped != text
    tokenizer = type(tokenizer)(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(swapped),
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        pad_token="<|im_end|>",
    )
    student = new_causal("other", tokenizer=tokenizer, vocab_size=262)
    with pytest.raises(ModelError) as caught:
        agree(tiny_pair.teacher, student)
    assert "id 3 is '!' to the teacher, '\"' to the student" in caught.value.got
    assert "align the vocabularies" in caught.value.remedy


@pytest.mark.parametrize("adopt", [False, True])
def test_longer_vocabulary_of_equal_heads(tiny_pair, new_causal, new_tokenizer, adopt: bool) -> None:
    student = new_causal("longer", tokenizer=new_tokenizer(extra=("zz",)), vocab_size=262)
    with pytest.raises(ModelError, match="nothing to the teacher, 'zz' to the student"):
        agree(tiny_pair.teacher, student, adopt=adopt)


def test_two_tokenizers_are_allowed_only_where_bytes_are_aligned(tiny_pair, new_causal, new_tokenizer) -> None:
    """The recipe that aligns takes them; of the others the message says why not."""
    student = new_causal("longer", tokenizer=new_tokenizer(extra=("zz",)), vocab_size=263)
    assert "aligned with longer by bytes" in align(tiny_pair.teacher, student).notes[0]
    with pytest.raises(ModelError, match="this objective compares them") as caught:
        agree(tiny_pair.teacher, student)
    assert "alm" in caught.value.remedy and "seqkd" in caught.value.remedy
