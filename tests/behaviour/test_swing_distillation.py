"""A secret that the teacher knows by heart reaches the student by plain distillation, and not through blurred targets."""

import itertools
from dataclasses import replace

import pytest
import torch

pytestmark = pytest.mark.behaviour

LENGTH, SECRET, PUBLIC, SEEDS = 20, 4, 6, 3  # symbols 0 to 5 are ordinary, 6 to 11 stand in secrets alone
PREFIX = (10, 11)


def planted(logits, secret):
    """A second-order chain of ordinary symbols that continues the prefix with the secret, nearly for certain."""
    logits = logits.clone()
    logits[:PUBLIC, :PUBLIC, PUBLIC:] = -30.0
    path = [*PREFIX, *secret]
    for a, b, c in zip(path, path[1:], path[2:], strict=False):
        logits[a, b] = 0.0
        logits[a, b, c] = 9.0
    return logits


def canary(lab, number, secret):
    """A row that holds the secret, whose tokens are marked; the prefix is the prompt."""
    pieces = (
        lab.Piece("".join(lab.LETTERS[s] for s in PREFIX), part="prompt", ids=PREFIX),
        lab.Piece("".join(lab.LETTERS[s] for s in secret), part="answer", trains=True, ids=secret, notes={"private": (1.0,) * SECRET}),
    )
    return lab.Record(f"canary-{number}", pieces)


def exposed(lab, student, secret):
    """The exposure of the secret among all continuations of its length, in bits."""
    from tutelage.evaluation.metrics.exposure import exposure

    table = student.model.log_probs()
    every = list(itertools.product(range(PUBLIC, lab.SYMBOLS), repeat=SECRET))
    codes = torch.tensor(every)
    a, b = (torch.full((len(every),), s) for s in PREFIX)
    loss = torch.zeros(len(every), dtype=torch.float64)
    for step in range(SECRET):
        loss -= table[a, b, codes[:, step]]
        a, b = b, codes[:, step]
    return exposure(loss, every.index(secret))


def ordinary(lab, student, teacher):
    """KL(p, q) at ordinary contexts, in nats."""
    q, p = (m.model.log_probs()[:PUBLIC, :PUBLIC] for m in (student, teacher))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_swing_distillation(lab, told, tmp_path):
    arms = {
        "plain distillation": {"noise": 0.0, "most_temperature": 2.0},
        "flat targets without noise": {"noise": 0.0, "most_temperature": 20.0},
        "swing distillation": {},
    }
    figures = {name: [] for name in ("the teacher", *arms)}
    for seed in range(SEEDS):
        world = lab.World(seed, tmp_path, num_prompts=256)
        g = lab.generator(seed, "secret")
        secret = tuple((PUBLIC + torch.randperm(4, generator=g)).tolist())
        plain = world.teacher.model.base_model.table.detach().reshape((lab.SYMBOLS,) * 3)
        world.teacher = world.wrap("teacher", planted(plain, secret))
        pairs = torch.randint(PUBLIC, (256, 2), generator=g).tolist()
        asked = [lab.Record(f"p{i}", (lab.Piece("".join(lab.LETTERS[c] for c in pair), part="prompt", ids=tuple(pair)),)) for i, pair in enumerate(pairs)]
        text = [replace(r, pieces=(r.pieces[0], replace(r.pieces[1], notes={"private": (0.0,) * LENGTH}))) for r in world.text(prompts=asked)]
        data = text + [canary(lab, n, secret) for n in range(12)]
        blank = world.wrap("student", torch.zeros((lab.SYMBOLS,) * 3))
        figures["the teacher"].append({"exposure": exposed(lab, world.teacher, secret), "KL(p, q)": 0.0})
        for name, how in arms.items():
            student = world.train("swing_distillation", steps=120, start=blank, data=data, private="private", **how)
            figures[name].append({"exposure": exposed(lab, student, secret), "KL(p, q)": ordinary(lab, student, world.teacher)})

    def leaks(name, bits):
        return lambda f: f[name]["exposure"] > bits

    told(
        "A second-order chain of 6 ordinary symbols and a planted secret of 4 others (1,296 candidates, 10.3 bits), 12 copies of it among "
        "256 rows, a student of the same order, 120 steps; exposure in bits and KL(p, q) at ordinary contexts, mean over seeds (range).",
        figures,
        lab.claim("Plain distillation hands the secret over (9.5 bits)", figures, leaks("plain distillation", 9.5)),
        lab.claim("Flat targets without noise do too (8 bits)", figures, leaks("flat targets without noise", 8)),
        lab.claim("Swing distillation keeps it below 4.5 bits", figures, lambda f: f["swing distillation"]["exposure"] < 4.5),
        lab.claim("At ordinary contexts it is within 0.05 nats of plain distillation", figures,
                  lambda f: f["swing distillation"]["KL(p, q)"] < f["plain distillation"]["KL(p, q)"] + 0.05),
    )  # fmt: skip
