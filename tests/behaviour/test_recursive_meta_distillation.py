"""Generations that learn from text: without an anchor the errors add up, with one they reach a plateau."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.behaviour
GENERATIONS, SEEDS = 6, 3
ARMS = {"anchor 0": 0.0, "anchor 0.3": 0.3, "anchor 1": 1.0}


@pytest.fixture(scope="module")
def rounds():
    path = Path(__file__).with_name("rounds.py")
    spec = importlib.util.spec_from_file_location("behaviour_rounds", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_recursive_meta_distillation(lab, told, rounds, tmp_path):
    figures = {name: [] for name in ARMS}
    for seed in range(SEEDS):
        world = lab.World(seed, tmp_path, num_prompts=32)
        world.teacher = world.chain("teacher", 1)
        for name, anchor in ARMS.items():
            curve = []

            def after(path, ws, curve=curve, world=world):
                if path.endswith("-train"):
                    curve.append(world.figures(ws.models["student"])["forward_kl"])

            models = {"teacher": world.teacher, "student": world.wrap("student", world.teacher.model.base_model.table.detach().reshape(12, 12))}
            rounds.run(
                "recursive_meta_distillation", models, {"train": world.prompts()}, tmp_path, steps=20, seed=seed, batch_size=32,
                learning_rate=0.1, after=after,
                given={"generations": GENERATIONS, "anchor": anchor, "written": True, "max_tokens": lab.LENGTH},
            )  # fmt: skip
            figures[name].append({"after 1": curve[0], "after 3": curve[2], "after 6": curve[-1]})
    told(
        "First-order chains of 12 symbols; each generation is fitted, 20 steps, to 32 texts of 20 symbols that the pool wrote; it begins "
        "as the base. KL(P || q) in nats a symbol, exact, mean over seeds (range).",
        figures,
        lab.claim("Without an anchor the distance after 6 is at least twice that after 1", figures,
                  lambda f: f["anchor 0"]["after 6"] > 2 * f["anchor 0"]["after 1"]),
        lab.claim("An anchor of 0.3 ends below 0.6 of that", figures, lambda f: f["anchor 0.3"]["after 6"] < 0.6 * f["anchor 0"]["after 6"]),
        lab.claim("From 3 to 6 generations it rises less than half as much as without an anchor", figures,
                  lambda f: f["anchor 0.3"]["after 6"] - f["anchor 0.3"]["after 3"] < 0.5 * (f["anchor 0"]["after 6"] - f["anchor 0"]["after 3"])),
        lab.claim("The nearer to 1 the anchor, the nearer the base", figures,
                  lambda f: f["anchor 1"]["after 6"] < f["anchor 0.3"]["after 6"] < f["anchor 0"]["after 6"]),
    )  # fmt: skip
