"""Answers of a server as they are kept: small, the tokens' own numbers exact, the rest a distribution."""

import json
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.core.errors import StoreError
from tutelage.data.cached.code import Code, fitted
from tutelage.voices.remote import packed
from tutelage.voices.remote.memo import Memo


def told(seed, num, k, size=5000):
    """What a server says of a prompt: the k most probable of Zipf-like distributions, the token's own first."""
    draws = np.random.default_rng(seed)
    logits = -1.2 * np.log(np.arange(size) + 3.0) + draws.gumbel(size=(num, size))
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    own = draws.integers(0, 40, num)
    rows = [None]
    for row, token in zip(log_probs, own.tolist(), strict=True):
        best = np.argsort(-row)[:k].tolist()
        ids = [token, *(i for i in best if i != token)]
        rows.append({str(i): {"logprob": float(np.float32(row[i])), "rank": 1, "decoded_token": "x"} for i in ids})
    return {"model": "m", "choices": [{"text": "", "finish_reason": "length", "prompt_logprobs": rows}]}


def numbers(rows):
    return [{int(k): v["logprob"] for k, v in row.items()} for row in rows[1:]]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), num=st.integers(1, 20), k=st.integers(1, 30))
def test_a_packed_answer_says_the_same_within_its_steps(seed, num, k):
    answer = told(seed, num, k)
    fields = packed.numbers_of(answer)
    code = fitted(1 << 13, [fields], packed.put, num)
    for some in (Code(1 << 13), code):
        back = packed.unpack(packed.pack(fields, some), some)
        assert back[0] is None
        for was, now in zip(numbers(answer["choices"][0]["prompt_logprobs"]), numbers(back), strict=True):
            own = next(iter(was))
            assert own == next(iter(now)) and set(was) == set(now)
            assert now[own] == np.float32(was[own])
            assert max(abs(was[i] - now[i]) for i in was) < 0.5
            mass = [sum(np.exp(x) for x in row.values()) for row in (was, now)]
            assert mass[1] == pytest.approx(mass[0], abs=5e-3) and mass[1] < 1 + 1e-6


def test_a_hundred_tokens_take_less_than_150_bytes(tmp_path):
    memo = Memo(tmp_path / "m.sqlite", rounded=True)
    plain = 0
    for number in range(12):
        memo.put(f"r{number}", told(number, 100, 100))
        plain += len(zlib.compress(json.dumps(told(number, 100, 100)).encode(), 1))
    sizes = [len(row[0]) / 100 for row in memo._base.execute("SELECT answer FROM answers ORDER BY rowid")]
    assert max(sizes[6:]) < 150 < plain / 1200 / 4, (sizes, plain / 1200)


def test_what_is_put_is_what_is_got_also_by_another_process(tmp_path):
    memo = Memo(tmp_path / "m.sqlite", rounded=True)
    first = [memo.put(f"r{n}", told(n, 60, 10)) for n in range(14)]
    again = Memo(tmp_path / "m.sqlite", rounded=True)
    assert [memo.get(f"r{n}") for n in range(14)] == first == [again.get(f"r{n}") for n in range(14)]
    assert len(again._codes) >= 2 and again.get("other") is None
    assert first[0]["choices"][0]["finish_reason"] == "length" and first[0]["model"] == "m"
    assert again.put("r0", told(0, 60, 10)) == first[0]
    again._base.execute("UPDATE codes SET code = x'00'")
    again._base.commit()
    with pytest.raises(StoreError, match="code"):
        Memo(tmp_path / "m.sqlite", rounded=True).get("r13")


@pytest.mark.parametrize("answer", [
    {"choices": [{"text": "a"}]}, {"choices": [{"prompt_logprobs": [None, {}]}]}, {"choices": []}, [1], "x",
    {"choices": [{"prompt_logprobs": [None, {"a": {"logprob": 1}}]}]}, {"choices": [{"prompt_logprobs": [None]}]},
    {"choices": [{"prompt_logprobs": [None, {"3": {"logprob": float("nan")}}]}]},
], ids=range(8))  # fmt: skip
def test_anything_else_is_kept_as_it_is(tmp_path, answer):
    memo = Memo(tmp_path / "m.sqlite", rounded=True)
    assert packed.numbers_of(answer) is None
    assert str(memo.put("r", answer)) == str(answer) == str(memo.get("r"))


def test_without_the_library_the_extra_is_named_before_anything_is_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ImportError, match=r"tutelage\[cache\]"):
        Memo(tmp_path / "m.sqlite", rounded=True)


def test_unless_it_is_asked_for_answers_are_kept_exactly(tmp_path):
    memo, answer = Memo(tmp_path / "m.sqlite"), told(1, 8, 5)
    memo.put("r", answer)
    assert memo.get("r") == answer
