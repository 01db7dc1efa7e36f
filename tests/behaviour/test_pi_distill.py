"""Answers found with privileged information are learnt without it, in one set of weights."""

import pytest
import torch

from tutelage.core.seeds import generator

pytestmark = pytest.mark.behaviour

TASKS, LENGTH, SYMBOLS, LIFT, SEEDS = 6, 4, 8, 3.0, 3


def test_pi_distill(lab, tables, told, tmp_path):
    rule = tmp_path / "solves.py"
    rule.write_text("def solves(record):\n    return list(record.pieces[-1].ids) == list(record.fields['solution'])\n")
    arms = {
        "reward without the information (GRPO)": None,
        "reward with it, then without (a=1)": {"teacher_share": 1.0},
        "pi_distill (a=0.5)": {},
        "the untold self alone (a=0)": {"teacher_share": 0.0},
    }
    figures = {"before": [], **{name: [] for name in arms}}
    for seed in range(SEEDS):
        g = generator(seed, "code")
        solution = torch.randint(SYMBOLS, (TASKS, LENGTH), generator=g)
        logits = 0.1 * torch.randn(TASKS, LENGTH, SYMBOLS, generator=g)

        def success(model, solution=solution):
            said = tables.log_probs(model)[:, :LENGTH]
            return {"success untold": float(said.gather(2, solution[..., None]).sum((1, 2)).exp().mean())}

        student = tables.ended("student", logits, LIFT)
        figures["before"].append(success(student))
        data = tables.prompts(TASKS, SYMBOLS + 1, solution=[(*s, SYMBOLS) for s in solution.tolist()])
        for name, how in arms.items():
            recipe = "rlad_trrd" if how is None else "pi_distill"
            more = {"alpha": 1.0, "anchor_scale": 0.0, "reuse": 1} if how is None else how
            figures[name].append(success(tables.train(
                recipe, {"student": student, "teacher": student}, data, tmp_path, steps=200, batch_size=TASKS, learning_rate=15.0, plain=True,
                seed=seed, views={"told": tables.hinted(SYMBOLS + 1, TASKS)}, hint=None if how is None else tables.hinted(SYMBOLS + 1, TASKS),
                verifier=str(rule), rollouts=8, max_tokens=LENGTH + 1, **more,
            )))  # fmt: skip
    told(
        "6 tasks of 4 actions out of 8, right if all are; the information adds 3 to the right action's logit; 8 rollouts a task, "
        "200 plain gradient steps; the probability of success without the information, exact, mean over seeds (range).",
        figures,
        lab.claim("Above 0.9 without the information", figures, lambda f: f["pi_distill (a=0.5)"]["success untold"] > 0.9),
        lab.claim("Above the reward without it", figures, lambda f: f["pi_distill (a=0.5)"]["success untold"] > f["reward without the information (GRPO)"]["success untold"]),
        lab.claim("Above the reward with it", figures, lambda f: f["pi_distill (a=0.5)"]["success untold"] > f["reward with it, then without (a=1)"]["success untold"]),
    )  # fmt: skip
