"""Elsewhere unshifted logits were compared with unshifted labels, and the teacher's own prompt was ignored."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from tutelage.data.collate import Collate


@pytest.mark.parametrize("how", [{}, {"padding": "left"}, {"pack": True}])
def test_the_loss_is_that_of_a_loop_over_tokens(kit, tokenizer, causal, how):
    records = [kit.chat(f"q{n}", "two and " * n + "two?", "four " * (n + 1)) for n in range(3)]

    def told(record):
        return replace(record, pieces=(replace(record.pieces[0], content="It is four. Now:"), *record.pieces[1:]))

    batch = Collate(tokenizer, 128, views={"teacher": told}, **how)(records)
    for name, sees in (("main", lambda r: r), ("teacher", told)):
        with torch.no_grad():
            scores = causal.predict(batch.views[name], frozenset({"next"}))["next"].at(slice(None))
        got = -scores.gather(1, batch.units["tokens"].target.unsqueeze(1)).squeeze(1)
        want = torch.cat([by_hand(sees(r), tokenizer, causal.model) for r in records])
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def by_hand(record, tokenizer, model):
    """Minus log-probabilities of the answer's tokens: one row alone, the logits of each position for the next id."""
    messages = [{"role": p.role, "content": p.content} for p in record.pieces]
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(messages[1]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([before + answer])
    with torch.no_grad():
        logits = model(ids).logits[0]
    return cross_entropy(logits[len(before) - 1 : -1], ids[0, len(before) :], reduction="none")
