"""Elsewhere left-padded prompts were sent to the sampler as real tokens."""

import pytest

from tutelage.data.render import prompt_ids
from tutelage.data.steps import ask as module


def test_prompts_are_asked_without_padding(kit, ws, tokenizer, monkeypatch):
    records = [kit.chat(f"q{n}", "two and " * n + "two?", "four") for n in range(4)]
    asked = []
    sample = module.sample

    def spy(causal, prompts, settings, seeds, **more):
        asked.extend(map(list, prompts))
        return sample(causal, prompts, settings, seeds, **more)

    monkeypatch.setattr(module, "sample", spy)
    together = list(module.Ask(max_tokens=4)(iter(records), ws))
    assert asked == [prompt_ids(r, tokenizer) for r in records]
    alone = [row for r in records for row in module.Ask(max_tokens=4)(iter([r]), ws)]
    assert [r.pieces[-1].ids for r in alone] == [r.pieces[-1].ids for r in together]
    for one, many in zip(alone, together, strict=True):
        assert many.pieces[-1].notes["log_prob"] == pytest.approx(one.pieces[-1].notes["log_prob"], abs=1e-4)
