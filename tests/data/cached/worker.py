"""Writes rows into a cache until it is killed; says how many are stored."""

import sys

import numpy as np
import torch

from tutelage.core.scores import Dense as Whole
from tutelage.data.cached import Asked, Cache, Top

KEY = {"weights": "w" * 8, "tokenizer": "t" * 8}
FORM = Top(8, 300)


def asked(number: int) -> Asked:
    draws = np.random.default_rng(number)
    length = int(draws.integers(3, 30))
    return Asked(np.append(draws.integers(0, 300, length), number % 300), np.arange(2, length + 1))


def fields(row: Asked, number: int) -> dict:
    draws = torch.Generator().manual_seed(number)
    scores = Whole(torch.randn(len(row.places), 300, generator=draws).log_softmax(-1))
    return FORM.of(scores, row.targets, draws)


def main(folder: str) -> None:
    cache = Cache(folder, KEY, FORM)
    number = len(cache)
    while True:
        rows = [asked(number + i) for i in range(3)]
        cache.add([(row, fields(row, number + i)) for i, row in enumerate(rows)])
        number += 3
        print(number, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
