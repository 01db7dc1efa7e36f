import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.core.errors import DataError
from tutelage.core.record import Piece, Record
from tutelage.data.render import CONTEXT, prompt_ids, render


def test_chat_is_the_template_without_what_follows_the_last_turn(kit, tokenizer):
    record = kit.chat("a", "what is two and two?", "four", "and three?", "seven")
    ids, flags = kit.flat(render(record, tokenizer))
    messages = [{"role": p.role, "content": p.content} for p in record.pieces]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(ids) == text.removesuffix("\n")
    trained = tokenizer.decode([i for i, f in zip(ids, flags, strict=True) if f])
    assert trained == "four<|im_end|>seven<|im_end|>"


def test_segments_name_their_pieces(kit, tokenizer):
    segments = render(kit.chat("a", "hi", "yo", system="be good"), tokenizer)
    assert [(s.piece, s.trains) for s in segments] == [(CONTEXT, False), (2, True)]
    assert tokenizer.decode(segments[0].ids).endswith("hi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("template", ["chatml", "trims", "inst", "thinks"])
def test_any_template_trains_content_and_end_only(kit, template):
    eos = {"trims": "<|eot|>"}.get(template, "<|im_end|>")
    tokenizer = kit.make_tokenizer(kit.TEMPLATES[template], eos=eos)
    record = kit.chat("a", "what is two and two?", "four")
    ids, flags = kit.flat(render(record, tokenizer))
    trained = tokenizer.decode([i for i, f in zip(ids, flags, strict=True) if f])
    assert trained == "four" + eos
    messages = [{"role": p.role, "content": p.content} for p in record.pieces]
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")


def test_a_template_that_strips_is_followed(kit):
    tokenizer = kit.make_tokenizer(kit.TRIMS, eos="<|eot|>")
    stripped = render(kit.chat("a", "q", "four"), tokenizer)
    assert render(kit.chat("a", "q", " four\n"), tokenizer) == stripped


def test_earlier_turn_keeps_its_end_token_when_its_answer_was_cut(kit, tokenizer):
    ids = tuple(tokenizer("fo")["input_ids"])
    cut = Piece("fo", "assistant", "student", trains=True, ids=ids, stop="length")
    record = Record("a", (Piece("q", "user"), cut, Piece("go on", "user"), Piece("ur", "assistant", trains=True)))
    every, flags = kit.flat(render(record, tokenizer))
    assert "fo<|im_end|>\n<|im_start|>user" in tokenizer.decode(every)
    assert tokenizer.decode([i for i, f in zip(every, flags, strict=True) if f]) == "four<|im_end|>"


def test_exact_ids_equal_the_data_they_spell(kit, tokenizer):
    record = kit.chat("a", "q", "four", "r", "five")
    written = []
    for piece in record.pieces:
        ids = (*tokenizer(piece.content)["input_ids"], tokenizer.eos_token_id)
        exact = Piece(piece.content, piece.role, "student", trains=True, ids=ids, stop="eos")
        written.append(exact if piece.trains else piece)
    assert render(Record("a", tuple(written)), tokenizer) == render(record, tokenizer)


def test_exact_ids_are_never_tokenised_again(tokenizer):
    odd = tuple(tokenizer(c)["input_ids"][0] for c in "four")  # four tokens where the tokenizer makes fewer
    assert odd != tuple(tokenizer("four")["input_ids"])
    piece = Piece("four", "assistant", "student", trains=True, ids=odd, stop="length")
    segments = render(Record("a", (Piece("q", "user"), piece)), tokenizer)
    assert segments[-1].ids == odd


@pytest.mark.parametrize("template", ["chatml", "trims", "inst"])
@given(texts=st.lists(st.text("ab \n?é", min_size=1, max_size=6).filter(str.strip), min_size=3, max_size=3))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prompt_ids_are_what_stands_before_the_answer(kit, template, texts):
    tokenizer = kit.make_tokenizer(kit.TEMPLATES[template], eos="<|eot|>" if template == "trims" else "<|im_end|>")
    record = kit.chat("a", *texts, "end", trains=[False, False, False, True])
    before, answer = render(record, tokenizer)
    messages = [{"role": p.role, "content": p.content} for p in record.pieces[:-1]]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert answer.piece == 3
    asked = prompt_ids(record, tokenizer)
    assert asked == tokenizer(text, add_special_tokens=False)["input_ids"]
    if template != "inst":  # that one writes a space before an answer, but not when it asks for one
        assert asked == list(before.ids)


def test_neighbouring_assistant_pieces_are_one_turn(kit, tokenizer):
    whole = kit.chat("a", "q", "think. answer")
    first, last = Piece("think.", "assistant", trains=True), Piece(" answer", "assistant", trains=True)
    parts = Record("a", (whole.pieces[0], first, last))
    ids, flags = kit.flat(render(parts, tokenizer))
    assert tokenizer.decode(ids) == tokenizer.decode(kit.flat(render(whole, tokenizer))[0])
    assert tokenizer.decode([i for i, f in zip(ids, flags, strict=True) if f]) == "think. answer<|im_end|>"


def test_a_prefilled_answer_goes_on_in_its_turn(tokenizer):
    record = Record("a", (Piece("q", "user"), Piece("Well,", "assistant"), Piece(" four", "assistant", trains=True)))
    text = tokenizer.decode(prompt_ids(record, tokenizer))
    assert text.endswith("<|im_start|>assistant\nWell,")
    assert prompt_ids(record, tokenizer) == list(render(record, tokenizer)[0].ids)


def test_text_gets_eos_only_after_a_prompt(kit, tokenizer):
    answered, _ = kit.flat(render(kit.text("a", "Q: two", " A: four"), tokenizer))
    plain, _ = kit.flat(render(Record("b", (Piece("the cat", trains=True),)), tokenizer))
    assert tokenizer.decode(answered) == "Q: two A: four<|im_end|>"
    assert tokenizer.decode(plain) == "the cat"


def test_bos_comes_from_the_tokenizer_alone(kit):
    with_bos, without = kit.make_tokenizer(adds_bos=True), kit.make_tokenizer()
    record = kit.text("a", "Q", "A")
    ids, flags = kit.flat(render(record, with_bos))
    assert ids[0] == with_bos.bos_token_id and not flags[0]
    assert ids[1:] == kit.flat(render(record, without))[0]
    assert prompt_ids(record, with_bos)[0] == with_bos.bos_token_id
    # a template says itself whether it writes BOS
    assert with_bos.bos_token_id not in kit.flat(render(kit.chat("a", "q", "r"), with_bos))[0]
    trims = kit.make_tokenizer(kit.TRIMS, eos="<|eot|>", adds_bos=True)
    assert kit.flat(render(kit.chat("a", "q", "r"), trims))[0].count(trims.bos_token_id) == 1


def test_a_template_that_rewrites_earlier_turns_is_refused(kit):
    tokenizer = kit.make_tokenizer(kit.FORGETS)
    record = kit.chat("row 7", "q", "<think>hm</think>four", "r", "five")
    with pytest.raises(DataError, match=r"row 7.*rewrites earlier turns"):
        render(record, tokenizer)
    last_only = kit.chat("a", "q", "<think>hm</think>four", "r", "five", trains=[False, False, False, True])
    assert "<think>" not in tokenizer.decode(prompt_ids(last_only, tokenizer))


def test_refusals_say_what_to_do(kit, tokenizer):
    inst = kit.make_tokenizer(kit.INST)
    with pytest.raises(DataError, match="Only user and assistant roles"):
        render(kit.chat("a", "q", "r", system="s"), inst)
    with pytest.raises(DataError, match=r"without a chat template.*chat=False"):
        render(kit.chat("a", "q", "r"), kit.make_tokenizer(None))
    with pytest.raises(DataError, match="chat turns and plain text"):
        render(Record("a", (Piece("q", "user"), Piece("r"))), tokenizer)


def test_a_prompt_alone_renders(kit, tokenizer):
    (segment,) = render(kit.chat("a", "q", "r").without_answer(), tokenizer)
    assert not segment.trains and tokenizer.decode(segment.ids) == "<|im_start|>user\nq<|im_end|>\n"


def test_user_turns_can_train(kit, tokenizer):
    ids, flags = kit.flat(render(kit.chat("a", "q?", "r!", trains=[True, True]), tokenizer))
    assert tokenizer.decode([i for i, f in zip(ids, flags, strict=True) if f]) == "q?<|im_end|>r!<|im_end|>"
