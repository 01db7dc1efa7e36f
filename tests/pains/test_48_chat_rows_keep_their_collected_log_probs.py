"""Pain 48: elsewhere a chat template failed on data with log-probs collected before, and one reader starved training."""

import json

import torch

from tutelage.core.record import Record
from tutelage.data.cached import Cache, Exact, answer, opened
from tutelage.data.collate import Collate
from tutelage.data.steps.ask import Ask
from tutelage.data.store import RowStore


def test_notes_and_cached_scores_survive_the_store_and_the_template(kit, ws, tokenizer, tmp_path):
    first = list(Ask(max_tokens=5)(iter([kit.chat(f"q{n}", "two and " * n, "x") for n in range(3)]), ws))
    store = RowStore(tmp_path / "rows", {"weights": "w0"})
    store.append(first)
    rows = [Record.from_dict(json.loads(json.dumps(r.to_dict()))) for r in store.records()]
    assert rows == first
    collate = Collate(tokenizer, 128)
    cache = Cache(tmp_path / "cache", {"weights": "w0"}, Exact(8, len(tokenizer)))
    ask = lambda view: ws.models["student"].predict(view, frozenset({"next"}))["next"]
    with torch.no_grad():
        answer(cache, collate(first).views["main"], ask)
    batch = Collate(tokenizer, 100, pack=True)(rows)  # another grid, and rows that were stored and read
    said = answer(opened(tmp_path / "cache"), batch.views["main"], None).at(slice(None))
    own = said.gather(1, batch.units["tokens"].target.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(own, batch.notes["tokens.log_prob"], rtol=1e-4, atol=1e-4)
