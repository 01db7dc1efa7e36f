"""A teacher that is an imperfect copy of a known truth: with few fixed prompts the student leaves the truth for it."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from tutelage.core.catalog import build
from tutelage.core.recipe import Generate, Recipe, Train
from tutelage.core.schedule import memories
from tutelage.core.seeds import generator
from tutelage.evaluation.metrics.hacking import Hacking

pytestmark = pytest.mark.behaviour
SEEDS, STEPS, DIM, CLASSES, PROMPTS, HELD = 3, 200, 20, 8, 512, 200
ARMS = {"64 prompts": 64, "512 prompts": PROMPTS, "new prompts each step": 0}


def module(name):
    spec = importlib.util.spec_from_file_location(f"behaviour_{name}", Path(__file__).with_name(f"{name}.py"))
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


def soft_fit(points, model, target, steps, rate, g, first, count):
    """Fit a network to another's logits on a stretch of the points."""
    inner = model.model.requires_grad_(True)
    adam = torch.optim.Adam(inner.parameters(), lr=rate)
    with torch.no_grad():
        p = points.logits(target, first, count).log_softmax(-1)
    for _ in range(steps):
        pick = torch.randint(count, (256,), generator=g)
        q = inner.head(inner.base_model((pick + first)[None] + CLASSES).last_hidden_state[0]).log_softmax(-1)
        adam.zero_grad()
        (p[pick].exp() * (p[pick] - q)).sum(-1).mean().backward()
        adam.step()
    inner.requires_grad_(False)


def test_teacher_hacking(lab, told, points, tmp_path):
    rounds = module("rounds")
    figures = {name: [] for name in ARMS}
    fresh = PROMPTS + HELD
    for seed in range(SEEDS):
        g = generator(seed, "hacking")
        x = torch.randn(8000, DIM, generator=g)
        oracle = points.model("oracle", x, (64, 64), CLASSES, seed=seed)
        for layer in oracle.model.base_model.layers:
            for parameter in layer.parameters():
                parameter.data *= 2.4
        oracle.model.head.weight.data *= 3
        teacher, student = points.model("taught", x, (128,), CLASSES, seed=seed + 1), points.model("student", x, (256,), CLASSES, seed=seed + 9)
        soft_fit(points, teacher, oracle, 400, 0.01, g, fresh, 4000)
        teacher.model.head.weight.data *= 1.6
        teacher.model.head.bias.data *= 1.6
        drawn = torch.multinomial(points.logits(oracle, 5000, 400).softmax(-1), 1, generator=g).squeeze(1)
        points.fit(student, drawn, 5000, steps=20, rate=0.003, seed=seed)
        rows = points.rows([0] * 5000, CLASSES)
        for name, few in ARMS.items():
            made = build("teacher_hacking", {"writer": "once" if few else "teacher", "every": 20, "max_tokens": 1})
            kept = [s for s in made.stages if (isinstance(s, Generate) and s.into != "oracle_text") or s.name == "distil"]
            data = {"train": rows[:few] if few else rows[fresh:], "held_out": rows[PROMPTS:fresh]}
            ws = {"teacher": oracle, "taught": teacher, "student": student}
            (stage,) = (s for s in kept if isinstance(s, Train))
            (hacking,) = (m for m in memories(stage).values() if isinstance(m, Hacking))
            rounds.run(Recipe(tuple(kept)), ws, data, tmp_path, steps=STEPS, seed=seed, batch_size=32, learning_rate=1.5e-3)
            _, golden, proxy = zip(*hacking.points, strict=True)
            figures[name].append({"golden at the start": golden[0], "golden at the end": golden[-1], "proxy at the end": proxy[-1], "index": hacking.index,
                                  "proxy fell": float(proxy[-1] < proxy[min(range(len(golden)), key=golden.__getitem__)])})  # fmt: skip
    fixed, more, new = figures
    told(
        "One-step language models of 20 inputs and 8 symbols: an oracle of two layers, a teacher fitted to it, then sharpened by 1.6; a student of 256 units "
        f"that saw 400 samples of the oracle; {STEPS} steps of 32 rows; KL in nats on 200 other prompts, mean over seeds (range). The index is "
        "the last golden distance over the least.",
        figures,
        lab.claim("With 64 prompts the index is above 1.25 while the proxy falls", figures, lambda f: f[fixed]["index"] > 1.25, expected=False),
        lab.claim("It is above that with new prompts by 0.05 or more", figures, lambda f: f[fixed]["index"] > f[new]["index"] + 0.05),
        lab.claim("With new prompts it is at most 1.05", figures, lambda f: f[new]["index"] <= 1.05, expected=False),
        lab.claim("With new prompts it is at most 1.15", figures, lambda f: f[new]["index"] <= 1.15),
        lab.claim("The more prompts, the nearer to the truth it ends", figures,
                  lambda f: f[new]["golden at the end"] < f[more]["golden at the end"] < f[fixed]["golden at the end"]),
    )  # fmt: skip
