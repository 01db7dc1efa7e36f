"""With the teacher in the ratio's denominator a chain of right actions is found sooner; a teacher sure and wrong vetoes."""

import itertools

import pytest
import torch

from tutelage.core.seeds import generator

pytestmark = pytest.mark.behaviour

ACTIONS, LENGTH, SEEDS = 10, 5, 3
ALPHAS = (0.0, 0.5, 1.0)


def world(seed, bonus):
    """A chain of five actions of which one each is right; the teacher's bonus on it differs by step."""
    right = torch.randint(ACTIONS, (1, LENGTH), generator=generator(seed, "chain"))
    student = torch.zeros(1, LENGTH, ACTIONS).scatter_(2, right[..., None], 1.5)
    teacher = torch.zeros(1, LENGTH, ACTIONS)
    for step, size in enumerate(bonus):
        action = right[0, step] if size >= 0 else (right[0, step] + 1) % ACTIONS
        teacher[0, step, action] = abs(size)
    return teacher, student, right


def test_rlad_trrd(lab, tables, told, tmp_path):
    rule = tmp_path / "solves.py"
    rule.write_text("def solves(record):\n    return list(record.pieces[-1].ids) == record.fields['solution']\n")
    figures = {}

    def run(name, teacher, student, right, alpha, steps, seed):
        models = {"teacher": tables.table("teacher", teacher), "student": tables.ended("student", student)}
        models["teacher"] = tables.ended("teacher", teacher)
        data = tables.prompts(1, ACTIONS + 1, solution=[[*right[0].tolist(), ACTIONS]])
        trained = tables.train(
            "rlad_trrd", models, data, tmp_path, steps=steps, batch_size=1, learning_rate=0.5 * LENGTH, plain=True, seed=seed,
            verifier=str(rule), alpha=alpha, anchor_scale=0.0, reuse=2, rollouts=16, max_tokens=LENGTH + 1,
        )  # fmt: skip
        said = tables.log_probs(trained)[0, :LENGTH]
        figures.setdefault(name, []).append({"success": float(said.gather(1, right[0][:, None]).sum().exp())})

    for seed in range(SEEDS):
        teacher, student, right = world(seed, [5.0] * LENGTH)
        for name, alpha in (("GRPO (alpha=1)", 1.0), ("rlad_trrd (alpha=0.5)", 0.5)):
            run(name, teacher, student, right, alpha, 100, seed)
        wrong = world(seed, [3.0, 3.0, -3.0, 3.0, 3.0])
        for alpha in ALPHAS:
            run(f"a wrong teacher at step 3, alpha={alpha}", *wrong, alpha, 160, seed)

    def mean(name):
        return sum(f["success"] for f in figures[name]) / SEEDS

    vetoed = [mean(f"a wrong teacher at step 3, alpha={alpha}") for alpha in ALPHAS]
    told(
        "A chain of 5 steps with 10 actions, right if all are; 16 rollouts, two gradient steps a round, 100 steps (with the wrong "
        "teacher 160); the probability of success, exact, mean over seeds (range).",
        figures,
        lab.Claim("With a right teacher it succeeds more often than GRPO", (mean("rlad_trrd (alpha=0.5)") > mean("GRPO (alpha=1)"),)),
        lab.Claim("Under a teacher sure and wrong at one step, success rises with the old student's share",
                  (all(a <= b + 0.02 for a, b in itertools.pairwise(vetoed)) and vetoed[-1] > vetoed[0] + 0.3,)),
    )  # fmt: skip
