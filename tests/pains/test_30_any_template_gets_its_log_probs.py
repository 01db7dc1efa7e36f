"""Elsewhere chat templates came in hard-coded pairs, and template tokens got log-prob 0."""

import pytest
import torch

from tutelage.data.collate import Collate
from tutelage.data.steps.ask import Ask


@pytest.mark.parametrize("name", ["chatml", "trims", "inst", "forgets", "thinks"])
def test_units_are_the_written_tokens_under_every_template(kit, ws, name):
    tokenizer = kit.make_tokenizer(kit.TEMPLATES[name], eos="<|eot|>" if name == "trims" else "<|im_end|>")
    ws.models["student"] = kit.make_causal(tokenizer)
    rows = list(Ask(max_tokens=6)(iter([kit.chat(f"q{n}", f"what is {n}?", "x") for n in range(3)]), ws))
    batch = Collate(tokenizer, 128)(rows)
    units, noted = batch.units["tokens"], batch.notes["tokens.log_prob"]
    assert units.target.tolist() == [i for r in rows for i in r.pieces[-1].ids]
    with torch.no_grad():
        scores = ws.models["student"].predict(batch.views["main"], frozenset({"next"}))["next"].at(slice(None))
    own = scores.gather(1, units.target.unsqueeze(1)).squeeze(1)
    assert (noted < 0).all()
    torch.testing.assert_close(noted, own, rtol=1e-4, atol=1e-4)
