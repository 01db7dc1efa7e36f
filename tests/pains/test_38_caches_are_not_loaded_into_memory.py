"""Elsewhere the entire file of logits was loaded into memory."""

import psutil
import torch

from tutelage.data import tensors
from tutelage.data.saying import DenseScores
from tutelage.data.tensors import Said, TensorStore

KEY = {"teacher's weights": "b" * 64}
NUM_CATEGORIES = 20_000


def test_memory_does_not_grow_with_the_cache(tmp_path, monkeypatch):
    holds = DenseScores(NUM_CATEGORIES)
    store = TensorStore(tmp_path / "s", KEY, holds)
    for shard in range(4):  # 4 shards of 25.6 MB
        rows = [Said(f"{shard}.{n}", [n], {"log_probs": torch.rand(32, NUM_CATEGORIES)}) for n in range(10)]
        store.append(rows)
    del store, rows
    process = psutil.Process()
    before = process.memory_info().rss
    hashed = []
    monkeypatch.setattr(tensors, "hash_file", lambda path, _hash=tensors.hash_file: hashed.append(path) or _hash(path))
    store = TensorStore(tmp_path / "s", KEY, holds)
    assert store.num_open == 0 and not hashed and len(store) == 40
    row = store.get("2.7", [7])["log_probs"]
    assert store.num_open == 1 and [p.name for p in hashed] == ["shard-00002.safetensors"]
    assert row.shape == (32, NUM_CATEGORIES)
    assert process.memory_info().rss - before < 15e6  # a row is 2.6 MB
