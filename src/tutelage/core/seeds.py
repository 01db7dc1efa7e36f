"""Random numbers that depend on names and counters, never on history.

A draw is seeded by what it is for (run seed, stage, round, record id), so a run that was stopped and goes on
draws the same numbers, and so does a run with another number of processes.
"""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed from a seed and a path of names."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for that path."""
    return torch.Generator().manual_seed(derive(seed, *names))
