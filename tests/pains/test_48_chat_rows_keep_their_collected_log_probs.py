"""Elsewhere a chat template failed on data with log-probs collected before."""

import json

import torch

from tutelage.core.record import Record
from tutelage.data.collate import Collate
from tutelage.data.saying import TopScores
from tutelage.data.steps.ask import Ask
from tutelage.data.store import RowStore
from tutelage.data.tensors import Said, TensorStore


def test_notes_and_cached_scores_survive_the_store_and_the_template(kit, ws, tokenizer, tmp_path):
    first = list(Ask(max_tokens=5)(iter([kit.chat(f"q{n}", "two and " * n, "x") for n in range(3)]), ws))
    store = RowStore(tmp_path / "rows", {"weights": "w0"})
    store.append(first)
    rows = [Record.from_dict(json.loads(json.dumps(r.to_dict()))) for r in store.records()]
    assert rows == first
    collate = Collate(tokenizer, 128)
    holds = TopScores(8, len(tokenizer))
    cache = TensorStore(tmp_path / "cache", {"weights": "w0"}, holds)
    for row in rows:
        batch = collate([row])
        with torch.no_grad():
            scores = ws.models["student"].predict(batch.views["main"], frozenset({"next"}))["next"].at(slice(None))
        cache.append([Said(row.id, row.pieces[-1].ids, holds.of(scores))])
        noted, target = batch.notes["tokens.log_prob"], batch.units["tokens"].target
        kept = cache.scores(row.id, row.pieces[-1].ids).at(slice(None))
        is_kept = (cache.get(row.id, row.pieces[-1].ids)["ids"] == target.unsqueeze(1)).any(1)
        assert len(noted) == len(target) == len(kept) == len(row.pieces[-1].ids)
        own = kept.gather(1, target.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(own[is_kept], noted[is_kept], rtol=1e-4, atol=1e-4)
