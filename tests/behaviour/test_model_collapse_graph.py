"""Generations on their own text: the error adds up without real data, and stays bounded with a share of it."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.behaviour
GENERATIONS, SEEDS = 6, 3
ARMS = {"no real data": 0.0, "30 % real data": 0.3}


@pytest.fixture(scope="module")
def rounds():
    path = Path(__file__).with_name("rounds.py")
    spec = importlib.util.spec_from_file_location("behaviour_rounds", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def entropy(model):
    table = model.model.base_model.table.detach().double().log_softmax(-1)
    return float(torch.special.entr(table.exp()).sum(-1).mean())


def test_model_collapse_graph(lab, told, rounds, tmp_path):
    figures = {name: [] for name in ARMS}
    for seed in range(SEEDS):
        world = lab.World(seed, tmp_path, num_prompts=32)
        world.teacher = world.chain("teacher", 1)
        start = world.wrap("student", world.teacher.model.base_model.table.detach().reshape(12, 12))

        def real(number, world=world):
            return world.text(prompts=[replace(r, id=f"{number}-{r.id}") for r in world.prompts()])

        for name, share in ARMS.items():
            curve = []

            def after(path, ws, curve=curve, world=world, real=real):
                if path.endswith("-train"):
                    curve.append(world.figures(ws.models["student"])["forward_kl"])
                    ws.data["train"] = real(len(curve))

            ws = rounds.run(
                "model_collapse_graph", {"student": start}, {"train": real(0)}, tmp_path, steps=20, seed=seed, batch_size=32,
                learning_rate=0.1, after=after,
                given={"generations": GENERATIONS, "real_share": share, "allow_collapse": True, "max_tokens": lab.LENGTH},
            )  # fmt: skip
            lost = entropy(start) - entropy(ws.models["student"])
            figures[name].append({"after 1": curve[0], "after 3": curve[2], "after 6": curve[-1], "entropy lost": lost})
    none, some = figures
    told(
        "First-order chains of 12 symbols, which begin as the truth; each generation is fitted, 20 steps, to 32 texts of 20 symbols, its own "
        "or real ones that are new each time. KL(P || q) in nats a symbol, exact, and the entropy that is lost; mean over seeds (range).",
        figures,
        lab.claim("Without real data the distance after 6 generations is at least twice that after 1", figures, lambda f: f[none]["after 6"] > 2 * f[none]["after 1"]),
        lab.claim("With 30 % of it ends below 0.8 of that", figures, lambda f: f[some]["after 6"] < 0.8 * f[none]["after 6"]),
        lab.claim("Without real data more entropy is lost", figures, lambda f: f[none]["entropy lost"] > f[some]["entropy lost"] and f[none]["entropy lost"] > 0),
    )
