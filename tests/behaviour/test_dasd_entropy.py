"""Attraction to the informed self where the student is sure, repulsion at forks: right steps and open paths."""

import pytest
import torch

from tutelage.core.seeds import generator

pytestmark = pytest.mark.behaviour

LENGTH, SYMBOLS, FORKS, LIFT, SEEDS = 9, 4, (1, 4, 7), 1.5, 4


def test_dasd_entropy(lab, tables, told, tmp_path):
    rule = tmp_path / "arrives.py"
    rule.write_text(
        "def arrives(record):\n"
        "    ids = record.pieces[-1].ids\n"
        "    return all(a in right for a, right in zip(ids, record.fields['right']))\n"
    )
    arms = {"GRPO (beta=0)": {"beta": 0.0}, "dasd_entropy": {}, "towards everywhere": {"uniform": 1.0}, "away everywhere": {"uniform": -1.0}}
    figures = {"before": [], **{name: [] for name in arms}}
    for seed in range(SEEDS):
        path = torch.randint(SYMBOLS, (LENGTH,), generator=generator(seed, "path"))
        logits = torch.zeros(1, LENGTH, SYMBOLS)
        right = []
        for step in range(LENGTH):
            a = int(path[step])
            if step in FORKS:
                right.append([a, (a + 1) % SYMBOLS])
            else:
                right.append([a])
                logits[0, step, a] = 2.485  # 0.8 among four

        def worth(model, path=path):
            log_probs = tables.log_probs(model)[0, :LENGTH]
            sure = [s for s in range(LENGTH) if s not in FORKS]
            forks = log_probs[list(FORKS)]
            return {
                "right at sure steps": float(log_probs[sure].gather(1, path[sure][:, None]).exp().mean()),
                "entropy at forks": float(-(forks.exp() * forks).sum(-1).mean()),
            }

        student = tables.ended("student", logits, LIFT)
        figures["before"].append(worth(student))
        data = tables.prompts(1, SYMBOLS + 1, solution=[(*path.tolist(), SYMBOLS)], right=[right])
        for name, how in arms.items():
            figures[name].append(worth(tables.train(
                "dasd_entropy", {"student": student}, data, tmp_path, steps=60, batch_size=1, learning_rate=0.3 * LENGTH, plain=True,
                seed=seed, views={"informed": tables.hinted(SYMBOLS + 1, 1)}, verifier=str(rule), share=0.3, rollouts=8,
                max_tokens=LENGTH + 1, **how,
            )))  # fmt: skip

    def mean(name, figure):
        return sum(f[figure] for f in figures[name]) / SEEDS

    told(
        "A path of 9 steps with 3 forks (2 of 4 branches right, even at first) and 6 sure steps (right at 0.8), rewarded if all is right; "
        "the informed self has 1.5 more on one branch and on the right steps; 8 rollouts, 60 plain gradient steps; exact, mean over "
        "seeds (range).",
        figures,
        lab.Claim("Sure steps are right more often than by the reward alone",
                  (mean("dasd_entropy", "right at sure steps") > mean("GRPO (beta=0)", "right at sure steps"),)),
        lab.Claim("Forks stay more open than with attraction everywhere",
                  (mean("dasd_entropy", "entropy at forks") > mean("towards everywhere", "entropy at forks"),)),
    )  # fmt: skip
