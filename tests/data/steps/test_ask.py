import pytest
import torch

from tutelage.core.errors import DataError, SettingError
from tutelage.core.record import Piece, Record
from tutelage.data.collate import Collate
from tutelage.data.render import prompt_ids, render
from tutelage.data.steps.ask import Ask


@pytest.fixture
def prompts(kit):
    return [kit.chat(f"q{n}", "what is " + "two and " * n + "two?", "four") for n in range(5)]


def ask(ws, prompts, **settings):
    return list(Ask(**{"max_tokens": 6, **settings})(iter(prompts), ws))


def test_answers_carry_exact_ids_and_their_log_probs(ws, prompts, causal, tokenizer):
    rows = ask(ws, prompts, temperature=0.7)
    batch = Collate(tokenizer, 200)(rows)
    with torch.no_grad():
        scores = causal.predict(batch.views["main"], frozenset({"next"}))["next"].at(slice(None))
    units = batch.units["tokens"]
    own = scores.gather(1, units.target.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(batch.notes["tokens.log_prob"], own, rtol=1e-4, atol=1e-4)
    drawn = (scores / 0.7).log_softmax(-1).gather(1, units.target.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(batch.notes["tokens.drawn"], drawn, rtol=1e-4, atol=1e-4)
    assert units.target.tolist() == [i for r in rows for i in r.pieces[-1].ids]


def test_the_prompt_stays_and_the_answer_becomes_the_reference(ws, prompts, tokenizer):
    for row, prompt in zip(ask(ws, prompts), prompts, strict=True):
        answer = row.pieces[-1]
        assert row.pieces[:-1] == prompt.pieces[:-1] and row.id == prompt.id
        assert row.fields["reference"] == "four" and answer.author == "student" and answer.role == "assistant"
        assert answer.stop in ("eos", "length") and len(answer.ids) <= 6
        assert (answer.stop == "eos") == (answer.ids[-1] == tokenizer.eos_token_id)
        assert list(render(row, tokenizer)[0].ids) == prompt_ids(prompt, tokenizer)
        assert "<|im_end|>" not in answer.content


def test_a_later_answer_does_not_become_the_reference(ws, prompts):
    twice = ask(ws, ask(ws, prompts, author="first"), author="second")
    assert all(r.fields["reference"] == "four" and r.pieces[-1].author == "second" for r in twice)


def test_draws_do_not_depend_on_what_else_is_asked(ws, prompts):
    together = {r.id: r.pieces[-1].ids for r in ask(ws, prompts)}
    alone = {r.id: r.pieces[-1].ids for p in reversed(prompts) for r in ask(ws, [p])}
    assert alone == together
    assert {r.id: r.pieces[-1].ids for r in ask(ws, prompts, batch_size=2)} == together
    assert {r.id: r.pieces[-1].ids for r in ask(ws.within("one", 1), prompts)} != together


def test_times_makes_a_group_of_different_rows(ws, prompts):
    rows = ask(ws, prompts[:2], times=3)
    assert [r.id for r in rows] == [f"q{n}#{k}" for n in range(2) for k in range(3)]
    assert [r.group for r in rows] == ["q0"] * 3 + ["q1"] * 3
    assert len({r.pieces[-1].ids for r in rows}) > 3


def test_greedy_is_the_same_each_time(ws, prompts):
    rows = ask(ws, prompts[:1], times=2, temperature=0.0)
    assert rows[0].pieces[-1].ids == rows[1].pieces[-1].ids
    assert set(rows[0].pieces[-1].notes["drawn"]) == {0.0}


def test_every_call_is_charged(ws, prompts):
    rows = ask(ws, prompts)
    account = ws.ledger.get("student", "sample")
    assert (account.calls, account.tokens) == (5, sum(len(r.pieces[-1].ids) for r in rows)) and account.seconds > 0


def test_text_prompts_get_text(ws, kit):
    (row,) = ask(ws, [kit.text("a", "Q: two", "four")])
    assert [p.role for p in row.pieces] == ["text", "text"]


def test_bad_prompts_and_settings(ws, kit):
    with pytest.raises(DataError, match="no prompt to answer"):
        ask(ws, [Record("a", (Piece("all of it trains", trains=True),))])
    with pytest.raises(DataError, match="tokens"):
        ask(ws, [kit.text("a", "two " * 400, "x")])
    for bad in ({"times": 0}, {"batch_size": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"max_tokens": 0}):
        with pytest.raises(SettingError):
            Ask(**bad)
