"""A teacher of merged pairs teaches a student of single letters: chunks carry what the teacher knows, ranks do not."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from tutelage.core.catalog import build
from tutelage.core.seeds import generator

pytestmark = pytest.mark.behaviour

KIT = runpy.run_path(str(Path(__file__).with_name("letters.py")))
LETTERS = "abcdefghijkl"
PAIRS = ("ab", "cd", "ef", "gh")
NUM_TEXTS, LENGTH, STEPS, RATE = 40, 64, 70, 0.15


def train(recipe, models, data, folder, seed, **arguments):
    """The student's log-probabilities Float64[12 12] after a recipe of one stage, from nothing."""
    models = dict(models, student=KIT["model"]("student", torch.zeros(len(LETTERS), len(LETTERS)), LETTERS))
    (stage,) = build(recipe, arguments).stages
    settings = {"steps": STEPS, "batch_size": len(data), "learning_rate": RATE, "max_length": LENGTH + 4}
    return KIT["train"](stage, models, data, folder, seed, **settings).double().log_softmax(-1)


def sorted_probabilities(teacher, data):
    """The baseline of sorted probabilities (ULD): place by place, as far as the shorter of the two goes."""
    table = torch.zeros(len(LETTERS), len(LETTERS), requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=RATE)
    said = ["l" + r.pieces[1].content for r in data]
    mine, theirs = ([t(s)["input_ids"] for s in said] for t in (KIT["tokenizer"](LETTERS), KIT["tokenizer"](LETTERS, PAIRS)))
    width = min(map(len, theirs))
    mine, theirs = (torch.tensor([row[:width] for row in rows]) for rows in (mine, theirs))
    p = teacher.exp()[theirs].sort(-1, descending=True).values.float()
    for _ in range(STEPS):
        q = nn.functional.pad(table.softmax(-1), (0, len(PAIRS)))[mine].sort(-1, descending=True).values
        optimizer.zero_grad()
        (q - p).abs().sum(-1).mean().backward()
        optimizer.step()
    return table.detach().double().log_softmax(-1)


def worth(source, log_q):
    """KL(source || student) a letter, over the source's stationary distribution, exactly."""
    still = torch.linalg.matrix_power(source, 200)[0]
    return {"kl": float((still[:, None] * source * (source.log() - log_q)).sum())}


def test_alm(lab, told, tmp_path):
    figures = {}
    for seed in range(3):
        source = torch.randn(len(LETTERS), len(LETTERS), generator=generator(seed, "source"), dtype=torch.float64).mul(1.2).softmax(-1)
        teacher = KIT["over_pairs"](source, LETTERS, PAIRS)
        data = KIT["texts"](source, LETTERS, seed, count=NUM_TEXTS, length=LENGTH)
        models = {"teacher": KIT["model"]("teacher", teacher, LETTERS, PAIRS)}
        arms = {
            "supervised": train("supervised", {}, data, tmp_path, seed),
            "alm, T = 100": train("alm", models, data, tmp_path, seed, merge_above=0.0),
            "alm, T = 1": train("alm", models, data, tmp_path, seed, merge_above=0.0, temperature=1.0),
            "sorted probabilities (ULD)": sorted_probabilities(teacher, data),
            "no training": torch.zeros(len(LETTERS), len(LETTERS)).log_softmax(-1),
        }
        for arm, log_q in arms.items():
            figures.setdefault(arm, []).append(worth(source, log_q))
    sft, alm, cold, ranks, none = figures
    told(
        f"{STEPS} steps of Adam on {NUM_TEXTS} texts of {LENGTH} letters from a random chain; the teacher is that chain over "
        "letters and four merged pairs. Nats a letter, mean over seeds (range).",
        figures,
        lab.claim("At T = 100 the student comes at least as near the source as by the text alone", figures, lambda f: f[alm]["kl"] <= f[sft]["kl"]),
        lab.claim("At T = 1 it stays behind that of T = 100", figures, lambda f: f[cold]["kl"] > f[alm]["kl"]),
        lab.claim("Sorted probabilities leave it more than ten times as far", figures, lambda f: f[ranks]["kl"] > 10 * f[alm]["kl"]),
        lab.claim("Sorted probabilities leave it farther than no training does", figures, lambda f: f[ranks]["kl"] > f[none]["kl"]),
    )  # fmt: skip
