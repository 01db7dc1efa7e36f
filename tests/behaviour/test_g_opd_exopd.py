"""A reward scale above 1 takes the student past its teacher, along the way from the reference to the teacher."""

import pytest
import torch

from tutelage.core.seeds import generator

pytestmark = pytest.mark.behaviour

ARMS, SEEDS = 10, 5


def world(seed):
    """Logits of the reference, and the reward of each arm, at most 0."""
    g = generator(seed, "bandit")
    reference, reward = 0.3 * torch.randn(1, 1, ARMS, generator=g), torch.randn(1, 1, ARMS, generator=g)
    return reference, reward - reward.max()


def test_g_opd_exopd(lab, tables, told, tmp_path):
    scales = {"reward_scale=1, which is opd": 1.0, "reward_scale=1.25": 1.25, "reward_scale=0.5": 0.5}
    figures = {"the reference": [], "the teacher": [], **{name: [] for name in scales}}
    for seed in range(SEEDS):
        reference, reward = world(seed)
        taught = reference + reward / 2  # the policy that is optimal for the reward at strength 2
        models = {"teacher": tables.table("teacher", taught), "student": tables.table("student", reference)}

        def worth(log_probs, reward=reward):
            return {"expected reward": float((log_probs.exp() * reward).sum())}

        figures["the reference"].append(worth(reference.double().log_softmax(-1)))
        figures["the teacher"].append(worth(taught.double().log_softmax(-1)))
        for name, scale in scales.items():
            student = tables.train(
                "g_opd_exopd", models, tables.prompts(1, ARMS), tmp_path, steps=60, batch_size=30, learning_rate=2.0,
                plain=True, seed=seed, max_tokens=1, reward_scale=scale,
            )  # fmt: skip
            figures[name].append(worth(tables.log_probs(student)))

    start, teacher, plain, past, half = figures
    worth = "expected reward"
    told(
        "A bandit of 10 arms; the teacher is the reference tilted by half of the true reward; 60 plain gradient steps of "
        "30 sampled tokens; the student's expected true reward, exact, mean over seeds (range).",
        figures,
        lab.claim("1.25 beats 1", figures, lambda f: f[past][worth] > f[plain][worth]),
        lab.claim("1.25 beats the teacher itself", figures, lambda f: f[past][worth] > f[teacher][worth]),
        lab.claim("0.5 lies between the reference and the teacher", figures, lambda f: f[start][worth] < f[half][worth] < f[teacher][worth]),
    )  # fmt: skip
