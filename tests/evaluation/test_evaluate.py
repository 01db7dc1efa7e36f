"""Evaluation on tiny real models against float64 oracles."""

import json
import math
import random

import pytest
import torch

from tutelage.core.errors import DataError, Diverged, SettingError, StoreError
from tutelage.data.collate import Collate
from tutelage.evaluation.evaluate import evaluate, merge, plain, untouched
from tutelage.evaluation.samples import choose, states_number, token_texts
from tutelage.models.sample import Sampling

SHORT = Sampling(max_tokens=6, temperature=0.0)


def oracle(model, record, collate):
    """Dense float64 log-probabilities of one record's trained positions."""
    batch = collate([record])
    model.model.eval()
    with torch.no_grad():
        logits = model.model(**batch.views["main"].inputs).logits.double().flatten(0, 1)[batch.views["main"].at]
    model.model.train()
    return logits.log_softmax(-1), batch.units["tokens"].target


@pytest.fixture
def result(pair, records, collate):
    return evaluate({"after": pair[1]}, pair[0], records, collate, batch_size=3, num_samples=2, sampling=SHORT)


def test_figures_equal_a_dense_oracle(result, pair, records, collate):
    kl, nll, top1, brier, count = 0.0, 0.0, 0.0, 0.0, 0
    for record in records:
        q, y = oracle(pair[1], record, collate)
        p, _ = oracle(pair[0], record, collate)
        for k in range(len(y)):
            kl += float((p[k].exp() * (p[k] - q[k])).sum())
            nll -= float(q[k, y[k]])
            top1 += float(q[k].argmax() == p[k].argmax())
            brier += float(((q[k].exp() - torch.eye(len(q[k]), dtype=torch.float64)[y[k]]) ** 2).sum())
            count += 1
    after = result["after"]
    assert after["fidelity"]["num_positions"] == count == result["held_out"]["num_positions"]
    assert after["fidelity"]["kl"] == pytest.approx(kl / count, rel=1e-4)
    assert after["fidelity"]["top1"] == pytest.approx(top1 / count)
    assert after["perplexity"] == pytest.approx(math.exp(nll / count), rel=1e-4)
    assert after["calibration"]["brier"] == pytest.approx(brier / count, rel=1e-4)


def test_figures_do_not_depend_on_the_batches_or_on_padding(result, pair, records, tokenizer, collate):
    for batch_size, other in ((1, collate), (7, collate), (4, Collate(tokenizer, 96, padding="left"))):
        again = evaluate({"after": pair[1]}, pair[0], records, other, batch_size=batch_size, num_samples=0)
        for name, value in result["after"]["fidelity"].items():
            assert again["after"]["fidelity"][name] == pytest.approx(value, rel=1e-4), name
        was, now = ([k for k in r["after"]["records"]["kl"] if k is not None] for r in (result, again))
        assert len(now) == 6 and now == pytest.approx(was, rel=1e-4)


def test_a_record_without_a_trained_position_is_listed_and_counts_nothing(result, records):
    columns = result["after"]["records"]
    assert columns["ids"] == [r.id for r in records]
    bare = columns["ids"].index("bare")
    assert columns["count"][bare] == 0 and columns["kl"][bare] is None
    total = sum(n * (v or 0) for n, v in zip(columns["count"], columns["kl"], strict=True))
    assert total / sum(columns["count"]) == pytest.approx(result["after"]["fidelity"]["kl"])


def test_only_bare_records_give_nulls_not_a_crash(pair, records, collate):
    bare = [r for r in records if r.id == "bare"]
    result = evaluate({"after": pair[1]}, pair[0], bare, collate, num_samples=2)
    assert result["after"]["fidelity"]["kl"] is None and result["samples"] == []
    json.dumps(result, allow_nan=False)


def test_the_teacher_against_itself_is_perfect(pair, records, collate):
    result = evaluate({"same": pair[0]}, pair[0], records, collate, num_samples=0)
    assert result["same"]["fidelity"]["kl"] == 0 and result["same"]["fidelity"]["top5"] == 1
    assert result["same"]["perplexity"] == result["teacher"]["perplexity"]


def test_modes_gradients_and_random_states_are_left_alone(pair, records, collate):
    for causal in pair:
        causal.model.model.layers[0].eval()
        next(causal.model.parameters()).grad = torch.ones_like(next(causal.model.parameters()))
    modes = [[m.training for m in causal.model.modules()] for causal in pair]
    states = torch.get_rng_state(), random.getstate()
    evaluate({"after": pair[1]}, pair[0], records, collate, num_samples=2, sampling=Sampling(max_tokens=3))
    assert [[m.training for m in causal.model.modules()] for causal in pair] == modes
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert torch.is_grad_enabled()
    for causal in pair:
        grads = [p.grad for p in causal.model.parameters()]
        assert grads[0] is not None and grads[0].eq(1).all() and all(g is None for g in grads[1:])


def test_draws_inside_leave_no_trace_even_after_an_error(pair):
    states = torch.get_rng_state(), random.getstate()
    with pytest.raises(RuntimeError, match="inside"), untouched(pair):
        assert not any(causal.model.training for causal in pair) and not torch.is_grad_enabled()
        torch.rand(3), random.random()
        raise RuntimeError("inside")
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert all(causal.model.training for causal in pair) and torch.is_grad_enabled()


def test_samples_carry_coloured_tokens_that_join_to_the_text(result, pair, records, collate, tokenizer):
    assert len(result["samples"]) == 2
    json.dumps(result, allow_nan=False)
    for shown in result["samples"]:
        own = shown["systems"]["after"]
        assert len(own["tokens"]) == own["num_tokens"] <= 6
        assert "".join(t["text"] for t in own["tokens"]).removesuffix("<eos>") == own["text"]
        assert len(own["along_teacher"]) == shown["teacher"]["num_tokens"]
        for token in own["tokens"]:
            assert token["kl"] >= -1e-6
            for who in ("student", "teacher"):
                probs = [p for _, p in token["top"][who]]
                assert len(probs) == 3 and probs == sorted(probs, reverse=True)
    shown = result["samples"][0]
    # greedy: what the student writes is what it finds most probable
    first = shown["systems"]["after"]["tokens"][0]
    assert first["text"] == first["top"]["student"][0][0] or "\ufffd" in first["top"]["student"][0][0]


def test_text_figures_grade_the_answers(result):
    text = result["after"]["text"]
    assert text["num_graded"] == 2 and 0 <= text["numeric_share"] <= 1
    assert text["length"]["num"] == 2 and len(text["lengths"]) == 2


def test_cost_counts_tied_weights_once(result, pair):
    cost = result["after"]["cost"]
    assert cost["num_parameters"] == pair[1].num_parameters
    assert cost["num_bytes"] == 4 * cost["num_parameters"]
    assert cost["sample_tokens_per_second"] > 0 and cost["predict_tokens_per_second"] > 0
    assert cost["peak_memory_bytes"] > 50e6
    assert result["ledger"]["after/sample"]["tokens"] == sum(result["after"]["text"]["lengths"])


def test_results_of_several_calls_merge(result, pair, records, collate):
    before = evaluate({"before": pair[0]}, pair[0], records, collate, num_samples=2, sampling=SHORT)
    both = merge(before, result)
    assert both["before"]["fidelity"]["kl"] == 0 and both["after"] == result["after"]
    assert all(set(s["systems"]) == {"before", "after"} for s in both["samples"])
    other = evaluate({"before": pair[0]}, pair[0], records[:2], collate, num_samples=0)
    with pytest.raises(StoreError, match="same held-out records"):
        merge(other, result)


def test_bad_input_is_named(pair, records, collate):
    with pytest.raises(SettingError, match="teacher"):
        evaluate({"teacher": pair[1]}, pair[0], records, collate)
    with pytest.raises(SettingError, match="batch_size=0"):
        evaluate({"after": pair[1]}, pair[0], records, collate, batch_size=0)
    with pytest.raises(DataError, match="held-out"):
        evaluate({"after": pair[1]}, pair[0], [], collate)


def test_nan_weights_stop_the_evaluation(pair, records, collate):
    with torch.no_grad():
        next(pair[1].model.parameters())[3] = math.nan
    with pytest.raises(Diverged, match=r"'after'.*record"):
        evaluate({"after": pair[1]}, pair[0], records, collate, num_samples=0)


def test_helpers(records, tokenizer, pair):
    assert plain({"a": (math.nan, 1.0, [math.inf])}) == {"a": [None, 1.0, [None]]}
    assert [r.id for r in choose(records, 3, pair, SHORT)] == ["r0", "r2", "r4"]
    assert choose(records, 0, pair, SHORT) == []
    # 128 positions: the prompts take 12, so 116 may be written and no more
    assert len(choose(records, 9, pair, Sampling(max_tokens=116))) == 6
    with pytest.raises(SettingError, match=r"within 128 positions"):
        choose(records, 9, pair, Sampling(max_tokens=117))
    ids = tokenizer("né 🎓")["input_ids"]
    texts = token_texts(ids, tokenizer)
    assert "".join(texts) == "né 🎓" and texts[1] == "" and texts[2] == "é"
    assert states_number("so it is\n#### 1,000") and states_number("$18") and not states_number("in 3 steps")
