"""Elsewhere the padding behind the student's answers was in the loss."""

import pytest

from tutelage.data.collate import Collate
from tutelage.data.steps.ask import Ask


@pytest.mark.parametrize("how", [{}, {"padding": "left"}, {"pack": True}])
def test_units_never_touch_padding(kit, ws, tokenizer, how):
    prompts = [kit.chat(f"q{n}", "two and " * n, "x") for n in range(4)]
    rows = [r for n, p in enumerate(prompts) for r in Ask(max_tokens=1 + 3 * n)(iter([p]), ws)]
    view = (batch := Collate(tokenizer, 200, **how)(rows)).views["main"]
    lengths = [len(r.pieces[-1].ids) for r in rows]
    assert len(set(lengths)) > 1 and len(batch.units["tokens"]) == sum(lengths)
    mask = view.inputs["attention_mask"]
    # a packed row of padding sees only padding: as many keys as there are tokens of it before
    real = mask.bool() if mask.dim() == 2 else view.inputs["position_ids"] + 1 == mask[:, 0].sum(-1)
    assert real.flatten()[view.at].all()
    following = view.inputs["input_ids"].flatten()
    inside = view.at % view.inputs["input_ids"].shape[1] + 1 < view.inputs["input_ids"].shape[1]
    assert inside.all() and following[view.at + 1].tolist() == batch.units["tokens"].target.tolist()
