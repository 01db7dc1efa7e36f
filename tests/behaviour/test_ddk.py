"""Data that follows the measured lag: the domain that lags catches up sooner than with equal shares, and without leaps."""

import math
from itertools import pairwise

import pytest
import torch

from tutelage.core.record import Piece, Record
from tutelage.core.seeds import generator

pytestmark = pytest.mark.behaviour
DOMAINS = (range(0, 4), range(4, 8), range(8, 12))
FIGURES = {
    "worst": "largest ratio of perplexities",
    "mean": "mean ratio",
    "moved": "sum of what the shares of the data moved",
}


def teacher(world, lab):
    """A second-order chain that never leaves the four symbols of the domain it is in."""
    logits = torch.full((lab.SYMBOLS,) * 3, -30.0)
    drawn = 2 * torch.randn(logits.shape, generator=generator(world.seed, "domains"))
    for symbols in DOMAINS:
        part = torch.meshgrid(*(torch.tensor(symbols),) * 3, indexing="ij")
        logits[part] = drawn[part]
    return world.wrap("teacher", logits)


def texts(world, lab, name, num):
    """The teacher's text in each domain, from prompts of its symbols."""
    out = {}
    for k, symbols in enumerate(DOMAINS):
        pairs = torch.randint(4, (num, 2), generator=generator(world.seed, name, k)) + symbols[0]
        prompts = [Record(f"{name}{k}.{i}", (Piece("".join(lab.LETTERS[s] for s in pair), part="prompt", ids=tuple(pair)),))
                   for i, pair in enumerate(pairs.tolist())]  # fmt: skip
        out[f"{name}{k}"] = world.text(prompts=prompts)
    return out


def said(record):
    return tuple(p.content for p in record.pieces)


def ratios(world, lab, student):
    """exp of the mean KL(p, q) in each domain: the student's perplexity over the teacher's, exactly."""
    log_p, log_q = world.teacher.model.log_probs(), student.model.log_probs()
    out = []
    for symbols in DOMAINS:
        mass, total = torch.zeros(lab.SYMBOLS, lab.SYMBOLS, dtype=torch.float64), 0.0
        mass[symbols[0] : symbols[-1] + 1, symbols[0] : symbols[-1] + 1] = 1 / 16
        for _ in range(lab.LENGTH):
            joint = mass.unsqueeze(-1) * log_p.exp()
            total += float((joint * (log_p - log_q)).sum())
            mass = joint.sum(0)
        out.append(math.exp(total / lab.LENGTH))
    return out


def test_ddk(lab, found_as, tmp_path):
    arms = {"equal shares": {"keep": 0.0}, "ddk": {}, "ddk without smoothing": {"smooth": False}}
    out = {arm: [] for arm in arms}
    before = []
    for seed in range(5):
        world = lab.World(seed, tmp_path, batch_size=16, learning_rate=0.05)
        world.teacher = teacher(world, lab)
        train, held = texts(world, lab, "train", 120), texts(world, lab, "held", 40)
        written = {said(r) for rows in train.values() for r in rows}
        held = {name: [r for r in rows if said(r) not in written] for name, rows in held.items()}
        known = [*train["train0"], *train["train1"]]
        start = world.train("supervised", data=known, steps=60)
        before.append(max(ratios(world, lab, start)))
        shared = {"start": start, "steps": 60, "data": known, "more": {**train, **held}, "every": 5,
                  "domains": tuple(train), "held": tuple(held)}  # fmt: skip
        for arm, how in arms.items():
            after = ratios(world, lab, world.train("ddk", **shared, **how))
            shares = [[row[f"share.{name}"] for name in train] for row in world.log]
            moved = sum(abs(a - b) for one, two in pairwise(shares) for a, b in zip(one, two, strict=True))
            out[arm].append({"worst": max(after), "mean": sum(after) / 3, "moved": moved})
    equal, follows, leaps = out
    found_as(
        "Three domains of four symbols, the student trained on two of them before; 60 steps of 16 rows, measured every 5 steps, "
        f"the first 5 with equal shares in each arm. The largest ratio of perplexities before: {min(before):.1f} to {max(before):.1f}. "
        "Mean over seeds (range).",
        out,
        (
            lab.claim("A lower largest ratio than with equal shares", out, lambda f: f[follows]["worst"] < f[equal]["worst"]),
            lab.claim("And than without smoothing", out, lambda f: f[follows]["worst"] < f[leaps]["worst"]),
            lab.claim("Shares move less than without smoothing", out, lambda f: f[follows]["moved"] < f[leaps]["moved"]),
        ),
        FIGURES,
    )
