"""Pain 25: one tokenizer, heads of other sizes (151,936 against 152,064 ids): elsewhere an error, a hang or a resize
script; here ids beyond the vocabulary have probability 0 on both sides, in both directions."""

from __future__ import annotations

import pytest
import torch

from tutelage.core.batch import View
from tutelage.core.errors import ModelError
from tutelage.models.agree import agree
from tutelage.models.sample import Sampling, sample

GRID = torch.tensor([[5, 6, 7, 8]])


@pytest.mark.parametrize("teacher_pad, student_pad", [(0, 7), (7, 0), (3, 12)])
def test_extra_ids_have_probability_zero(new_causal, teacher_pad: int, student_pad: int) -> None:
    real = 262
    teacher = new_causal("teacher", vocab_size=real + teacher_pad, seed=1)
    student = new_causal("student", vocab_size=real + student_pad, seed=2)
    found = agree(teacher, student)
    assert found.size == real
    assert [n for n in found.notes if "probability 0" in n] == [found.notes[-1]]
    view = View({"input_ids": GRID}, torch.arange(4))
    for causal in (teacher, student):
        scores = causal.predict(view, frozenset({"next"}))["next"]
        assert scores.num_categories == real
        with torch.no_grad():
            expected = causal.model(GRID).logits[0, :, :real].double().log_softmax(-1).float()
        torch.testing.assert_close(scores.at(slice(None)), expected, atol=1e-5, rtol=1e-5)
        scores.at(slice(None))[:, 9].sum().backward()
        grad = causal.model.get_input_embeddings().weight.grad
        assert grad[real:].abs().sum() == 0
        assert grad[:real].abs().sum() > 0


def test_extra_ids_are_never_sampled(new_causal) -> None:
    teacher, student = new_causal("teacher", vocab_size=262), new_causal("student", vocab_size=300)
    with torch.no_grad():
        student.model.get_input_embeddings().weight[262:] *= 50  # the padded ids would win nearly always
    assert max(i for s in sample(student, [[5, 6]] * 4, Sampling(8), range(4)) for i in s.ids) >= 262
    agree(teacher, student)
    assert max(i for s in sample(student, [[5, 6]] * 4, Sampling(8), range(4)) for i in s.ids) < 262


def test_a_head_shorter_than_the_vocabulary_is_an_error(new_causal) -> None:
    with pytest.raises(ModelError, match="resize_token_embeddings"):
        agree(new_causal(), new_causal("short", vocab_size=250))
