"""Pain 31: a base model's rendering against a chat teacher: elsewhere a silent bias of 0.29 nats a token."""

from __future__ import annotations

import pytest

from tutelage.core.errors import ModelError
from tutelage.models.agree import agree


def test_a_base_student_needs_adopt(tiny_pair, new_causal, new_tokenizer) -> None:
    student = new_causal("base", tokenizer=new_tokenizer(chat=False))
    student.tokenizer.eos_token = student.tokenizer.pad_token = "<|im_end|>"
    student.inner.generation_config.eos_token_id = 2
    with pytest.raises(ModelError, match=r"none for the student.*adopt=True"):
        agree(tiny_pair.teacher, student)
    found = agree(tiny_pair.teacher, student, adopt=True)
    assert student.tokenizer.chat_template == tiny_pair.teacher.tokenizer.chat_template
    assert student.tokenizer is not tiny_pair.teacher.tokenizer
    assert student.facts["adopted"] == "teacher"
    assert "takes chat template" in found.notes[0]


def test_a_base_teacher_of_a_chat_student(tiny_pair, new_causal, new_tokenizer) -> None:
    teacher = new_causal("base", tokenizer=new_tokenizer())
    teacher.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="chat version of the teacher"):
        agree(teacher, tiny_pair.student)


def test_templates_that_render_otherwise(tiny_pair, new_tokenizer) -> None:
    other = new_tokenizer()
    other.chat_template = other.chat_template.replace("'<|im_end|>", "' <|im_end|>")
    assert other.chat_template != tiny_pair.tokenizer.chat_template
    tiny_pair.student.tokenizer = other
    with pytest.raises(ModelError, match="rendering of a chat"):
        agree(tiny_pair.teacher, tiny_pair.student)


def test_templates_spelled_otherwise_that_render_the_same(tiny_pair, new_tokenizer) -> None:
    other = new_tokenizer()
    other.chat_template = other.chat_template.replace("message in messages", "m in messages").replace("message[", "m[")
    tiny_pair.student.tokenizer = other
    agree(tiny_pair.teacher, tiny_pair.student)


def test_a_prompt_that_opens_otherwise(tiny_pair, new_tokenizer) -> None:
    other = new_tokenizer()
    other.chat_template = other.chat_template.replace("assistant\n", "assistant: ")
    tiny_pair.student.tokenizer = other
    with pytest.raises(ModelError, match="rendering of a chat prompt"):
        agree(tiny_pair.teacher, tiny_pair.student)
