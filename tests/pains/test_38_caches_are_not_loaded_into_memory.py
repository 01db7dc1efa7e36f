"""Pain 38: elsewhere the entire file of logits was loaded into memory."""

import numpy as np
import psutil

from tutelage.data.cached import Asked, Cache, Dense, opened

NUM_CATEGORIES = 20_000


def asked(number):
    return Asked(np.append(np.full(32, number), number + 1), np.arange(1, 33))


def test_memory_does_not_grow_with_the_cache(tmp_path):
    cache = Cache(tmp_path / "c", {"weights": "w"}, Dense(NUM_CATEGORIES))
    values = np.random.default_rng(0).random((32, NUM_CATEGORIES), np.float32)
    for start in range(0, 40, 10):  # 102 MB in all
        cache.add([(asked(n), {"log_probs": values + n}) for n in range(start, start + 10)])
    del cache
    process = psutil.Process()
    before = process.memory_info().rss
    cache = opened(tmp_path / "c")
    assert len(cache) == 40 and process.memory_info().rss - before < 2e6
    row = cache.find(asked(27))["log_probs"]
    assert np.array_equal(row, values + 27)
    assert process.memory_info().rss - before < 15e6  # a row is 2.6 MB
