"""Elsewhere pad == eos masked every EOS, as SmolLM2 ships it, and the student never learned to stop."""

import pytest

from tutelage.data.collate import Collate


@pytest.mark.parametrize("how", [{}, {"padding": "left"}, {"pack": True}])
def test_each_answer_trains_its_eos_and_no_padding(kit, how):
    same, other = kit.make_tokenizer(pad="<|im_end|>"), kit.make_tokenizer(pad="<|pad|>")
    assert same.pad_token_id == same.eos_token_id != other.pad_token_id
    records = [kit.chat("a", "q", "four"), kit.text("b", "a longer question", "five and six"), kit.chat("c", "r", "")]
    one, two = (Collate(t, 64, **how)(records) for t in (same, other))
    eos = same.eos_token_id
    units = one.units["tokens"]
    for row in range(3):
        assert units.target[units.row == row].tolist().count(eos) == 1
        assert units.target[units.row == row][-1] == eos
    assert units.target.tolist() == two.units["tokens"].target.tolist()
    assert one.views["main"].at.tolist() == two.views["main"].at.tolist()
    assert one.views["main"].inputs["attention_mask"].tolist() == two.views["main"].inputs["attention_mask"].tolist()
