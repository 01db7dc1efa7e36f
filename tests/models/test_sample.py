"""Sampling: exact log-probabilities, rows that do not see each other, stops and seeds."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from tutelage.core.errors import DataError, SettingError
from tutelage.models import sample as module
from tutelage.models.cache import plain
from tutelage.models.causal import Causal
from tutelage.models.draw import draw
from tutelage.models.sample import Sampling, sample

PROMPTS = [[5, 6, 7], [5, 6, 7, 8, 9, 10], [5, 6, 7], [5, 6, 30, 31, 32, 33, 34, 35, 36]]


def reference(causal: Causal, prompt: list[int], options: Sampling, seed: int) -> tuple[list[int], list[float]]:
    """One row, no cache, whole forward passes, plain loops."""
    uniform = torch.rand(options.max_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ids, log_probs = list(prompt), []
    for step in range(options.max_tokens):
        with torch.no_grad():
            logits = causal.model(torch.tensor([ids])).logits[0, -1].double()
        own = logits.log_softmax(-1)
        p = (logits / options.temperature).softmax(-1)
        order = p.argsort(descending=True)
        kept = order[: options.top_k or len(order)].tolist()
        mass, chosen = 0.0, []
        total = float(p[kept].sum())
        for i in kept:
            if mass >= options.top_p:
                break
            chosen.append(i)
            mass += float(p[i]) / total
        if options.top_p == 1 and not options.top_k:
            chosen = list(range(len(p)))
        cumulative, goal = 0.0, float(uniform[step]) * float(p[chosen].sum())
        for i in chosen:
            cumulative += float(p[i])
            if cumulative > goal:
                break
        ids.append(i)
        log_probs.append(float(own[i]))
        if i in causal.stop_ids:
            break
    return ids[len(prompt) :], log_probs


@pytest.mark.parametrize(
    "options",
    [Sampling(12), Sampling(12, temperature=0.7), Sampling(12, top_k=5), Sampling(12, temperature=1.3, top_p=0.8)],
    ids=["plain", "cool", "top_k", "top_p"],
)
def test_equals_the_plain_loop(tiny_pair, options: Sampling) -> None:
    causal = tiny_pair.teacher
    found = sample(causal, PROMPTS, options, [1, 2, 3, 4])
    for prompt, seed, one in zip(PROMPTS, (1, 2, 3, 4), found, strict=True):
        ids, log_probs = reference(causal, prompt, options, seed)
        assert list(one.ids) == ids
        assert one.log_probs == pytest.approx(log_probs, abs=1e-4)


def test_drawn_is_the_cut_distribution(tiny_pair) -> None:
    causal = tiny_pair.teacher
    one = sample(causal, PROMPTS[:1], Sampling(1, temperature=0.5, top_k=3), [7])[0]
    with torch.no_grad():
        logits = causal.model(torch.tensor(PROMPTS[:1])).logits[0, -1]
    top = (logits / 0.5).topk(3)
    expected = top.values.log_softmax(-1)[top.indices.tolist().index(one.ids[0])]
    assert one.drawn[0] == pytest.approx(float(expected), abs=1e-5)
    assert one.log_probs[0] == pytest.approx(float(logits.log_softmax(-1)[one.ids[0]]), abs=1e-5)


def test_greedy(tiny_pair) -> None:
    causal = tiny_pair.teacher
    first, second = sample(causal, PROMPTS[:2], Sampling(8, temperature=0), [0, 9])
    ids = list(PROMPTS[0])
    for token in first.ids:
        with torch.no_grad():
            assert int(causal.model(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)
    assert set(first.drawn) == {0.0}
    assert max(first.log_probs) < 0
    assert second.ids == sample(causal, PROMPTS[1:2], Sampling(8, temperature=0), [1])[0].ids


def test_a_row_depends_on_its_seed_alone(tiny_pair) -> None:
    together = sample(tiny_pair.teacher, PROMPTS, Sampling(40), [11, 12, 13, 14])
    for place in range(4):
        alone = sample(tiny_pair.teacher, [PROMPTS[place]], Sampling(40), [11 + place])[0]
        assert alone.ids == together[place].ids
        assert alone.log_probs == pytest.approx(together[place].log_probs, abs=1e-4)
    assert together[0].ids != together[2].ids


def test_many_stops_leave_the_batch_and_the_output_alone(tiny_pair, monkeypatch) -> None:
    causal = tiny_pair.teacher
    causal.inner.generation_config.eos_token_id = list(range(0, 262, 9))
    seeds = list(range(16))
    prompts = [[5, 6, 7 + i] for i in range(16)]
    sizes: list[int] = []
    original = module._Writer._compact

    def counted(self, ids):
        sizes.append(len(self.rows))
        return original(self, ids)

    monkeypatch.setattr(module._Writer, "_compact", counted)
    found = sample(causal, prompts, Sampling(30), seeds)
    assert sizes[0] == 16
    assert sizes[-1] < 16
    for prompt, seed, one in zip(prompts, seeds, found, strict=True):
        assert list(one.ids) == reference(causal, prompt, Sampling(30), seed)[0]
        assert one.stop == ("eos" if one.ids[-1] in causal.stop_ids else "length")
        assert not set(one.ids[:-1]) & set(causal.stop_ids)


def ending_often(causal: Causal) -> Causal:
    """About one token in nine ends an answer, so rows end at many places."""
    causal.inner.generation_config.eos_token_id = list(range(0, 262, 9))
    return causal


@pytest.mark.parametrize("places", [1, 2, 5, 8])
def test_rows_that_wait_take_the_places_of_those_that_ended(tiny_pair, monkeypatch, places) -> None:
    """The same answers as each alone, never more than so many at once, and in fewer passes than batch after batch."""
    causal = ending_often(tiny_pair.teacher)
    prompts = [[5, 6, *range(7, 8 + (5 * i) % 11)] for i in range(24)]
    batches: list[int] = []
    original = module._Reader.read

    def counted(self, ids):
        batches.append(len(ids))
        original(self, ids)

    monkeypatch.setattr(module._Reader, "read", counted)
    found = sample(causal, prompts, Sampling(24), list(range(24)), places=places)
    passes, widest = len(batches), max(batches)
    batches.clear()
    for first in range(0, 24, places):
        some = slice(first, first + places)
        sample(causal, prompts[some], Sampling(24), list(range(24))[some])
    assert widest <= places and (passes < len(batches) if places > 1 else passes == len(batches))
    monkeypatch.undo()
    for row, one in enumerate(found):
        alone = sample(causal, [prompts[row]], Sampling(24), [row])[0]
        assert one.ids == alone.ids and one.stop == alone.stop
        assert one.log_probs == pytest.approx(alone.log_probs, abs=1e-4)
    assert {one.stop for one in found} == {"eos", "length"} or all(one.stop == "eos" for one in found)


def test_several_writers_take_waiting_rows_as_well(tiny_pair, new_causal) -> None:
    causal, other = ending_often(tiny_pair.teacher), new_causal("other", seed=9)
    prompts = [[5, 6, 7 + i] for i in range(9)]
    found = sample(causal, prompts, Sampling(12), list(range(9)), [(other, 0.4)], places=3)
    for row, one in enumerate(found):
        alone = sample(causal, [prompts[row]], Sampling(12), [row], [(other, 0.4)])[0]
        assert one.ids == alone.ids and one.log_probs == pytest.approx(alone.log_probs, abs=1e-4)


def test_a_row_that_ended_never_reads_beyond_the_context() -> None:
    """Positions of this model are a table: one more than there are would be an error."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=64, n_positions=20, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5, eos_token_id=[3, 4, 5], bos_token_id=1)
        causal = Causal("gpt2", GPT2LMHeadModel(config).eval())
    prompts = [[7 + i % 5] * (1 + i % 4) for i in range(40)]
    found = sample(causal, prompts, Sampling(16), list(range(40)), places=9)
    lengths = {len(one.ids) for one in found}
    assert len(lengths) > 5 and max(lengths) == 16
    for row in (0, 13, 39):
        assert found[row].ids == sample(causal, [prompts[row]], Sampling(16), [row])[0].ids


def test_stop_text(tiny_pair) -> None:
    causal = tiny_pair.teacher
    free = sample(causal, [PROMPTS[0]], Sampling(30), [5])[0]
    text = next(causal.tokenizer.decode(free.ids[i : i + 2]) for i in range(5, 29))
    one = sample(causal, [PROMPTS[0]], Sampling(30, stop=(text,)), [5])[0]
    assert one.stop == "stop"
    assert text in causal.tokenizer.decode(one.ids)
    assert text not in causal.tokenizer.decode(one.ids[:-1])


def test_dropout_is_off_and_training_comes_back(new_causal) -> None:
    causal = new_causal(attention_dropout=0.9)
    still = sample(causal, PROMPTS, Sampling(10), [1, 2, 3, 4])
    causal.model.train()
    assert sample(causal, PROMPTS, Sampling(10), [1, 2, 3, 4]) == still
    assert causal.model.training
    assert all(p.grad is None for p in causal.model.parameters())


def test_global_random_state_is_not_touched(tiny_pair) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    sample(tiny_pair.teacher, PROMPTS, Sampling(3), [1, 2, 3, 4])
    assert torch.equal(state, torch.get_rng_state())


def test_windowed_models_use_the_librarys_cache() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, initializer_range=0.3, sliding_window=4, final_logit_softcapping=3.0,
        eos_token_id=63, pad_token_id=0,
    )  # fmt: skip
    causal = Causal("gemma", Gemma2ForCausalLM(config).eval())
    assert not plain(causal.config)
    for places in (None, 3):
        found = sample(causal, PROMPTS, Sampling(12), [1, 2, 3, 4], places=places)
        for prompt, seed, one in zip(PROMPTS, (1, 2, 3, 4), found, strict=True):
            assert list(one.ids) == reference(causal, prompt, Sampling(12), seed)[0]


def test_frequencies_follow_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5]])
    uniform = torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = Counter(draw(logits.expand(20000, -1), uniform, Sampling()).ids.tolist())
    for i, p in enumerate(logits.softmax(-1)[0].tolist()):
        assert abs(found[i] / 20000 - p) < 4 * (p * (1 - p) / 20000) ** 0.5


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 6), st.floats(0.05, 1.0), st.floats(0.2, 3.0))
def test_cuts_are_distributions(seed: int, top_k: int, top_p: float, temperature: float) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 40, generator=g)
    found = draw(logits, torch.rand(3, dtype=torch.float64, generator=g), Sampling(1, temperature, top_k, top_p))
    p = (logits.double() / temperature).softmax(-1)
    for row in range(3):
        order = p[row].argsort(descending=True)[: top_k or 40]
        within = p[row][order] / p[row][order].sum()
        size = int(((within.cumsum(0) - within) < top_p - 1e-9).sum())
        place = order.tolist().index(int(found.ids[row]))
        assert place <= size
        assert float(found.drawn[row].exp()) == pytest.approx(float(within[place] / within[:size].sum()), rel=0.02)


def test_top_p_beyond_the_near_ids() -> None:
    flat = torch.zeros(1, 5000)
    found = draw(flat, torch.tensor([0.999], dtype=torch.float64), Sampling(1, top_p=0.9))
    assert float(found.drawn.exp()) == pytest.approx(1 / 4500, rel=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [{"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0},
     {"top_p": 1.5}, {"stop": ("",)}, {"stop": "abc"}],
)  # fmt: skip
def test_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_prompts_that_cannot_be_continued(tiny_pair) -> None:
    causal = tiny_pair.teacher
    with pytest.raises(DataError, match=r"prompt 1 .*lower max_tokens"):
        sample(causal, [[5], [5] * 250], Sampling(16), [0, 1])
    with pytest.raises(DataError, match="Drop empty prompts"):
        sample(causal, [[]], Sampling(16), [0])
    with pytest.raises(SettingError, match="1 seeds for 2 prompts"):
        sample(causal, [[5], [6]], Sampling(16), [0])
    assert sample(causal, [], Sampling(16), []) == []


def test_the_smallest_number_never_picks_what_cannot_be() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0]])
    assert draw(logits, torch.zeros(1, dtype=torch.float64), Sampling()).ids.tolist() == [1]
    almost = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert draw(logits, almost, Sampling()).ids.tolist() == [2]
