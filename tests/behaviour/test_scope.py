"""Keeping what was right and following the teacher on what was wrong beats following it everywhere, and keeps answers."""

import pytest
import torch

from tutelage.core.recipe import Recipe, Train
from tutelage.core.seeds import generator
from tutelage.core.term import Term, Update
from tutelage.data.live import Live
from tutelage.data.steps.ask import Ask
from tutelage.signals.policy import K3

pytestmark = pytest.mark.behaviour

PROMPTS, LENGTH, SYMBOLS, KNOWN, SEEDS = 10, 3, 6, 7, 3


def world(seed):
    """Two right answers a prompt, which part at their last symbol; the teacher knows one of them on 7 prompts of 10."""
    g = generator(seed, "paths")
    one = torch.randint(SYMBOLS, (PROMPTS, LENGTH), generator=g)
    other = one.clone()
    other[:, -1] = (one[:, -1] + 1 + torch.randint(SYMBOLS - 1, (PROMPTS,), generator=g)) % SYMBOLS
    teacher = 2 * torch.randn(PROMPTS, LENGTH, SYMBOLS, generator=g)
    teacher[:KNOWN] = 0
    teacher[:KNOWN].scatter_(2, one[:KNOWN, :, None], 4.0)
    student = 0.5 * torch.randn(PROMPTS, LENGTH, SYMBOLS, generator=g)
    for answer in (one, other):
        student.scatter_add_(2, answer[..., None], torch.ones(PROMPTS, LENGTH, 1))
    return teacher, student, (one, other)


def everywhere():
    """On-policy distillation by the same estimate, on every answer."""
    source = Live(Ask("student", times=8, max_tokens=LENGTH + 1), prompts="train")
    return Recipe((Train("train", source, (Update((Term("correction", K3()),)),)),))


def test_scope(lab, tables, told, tmp_path):
    rule = tmp_path / "solves.py"
    rule.write_text("def solves(record):\n    return list(record.pieces[-1].ids[:-1]) in record.fields['answers']\n")
    arms = {"opd": None, "scope": {}, "scope, all weights 1": {"weight_temperature": 1e6}}
    figures = {"before": [], "the teacher": [], **{name: [] for name in arms}}
    for seed in range(SEEDS):
        teacher, student, answers = world(seed)
        models = {"teacher": tables.ended("teacher", teacher), "student": tables.ended("student", student)}

        def worth(model, answers=answers):
            log_probs = tables.log_probs(model)[:, :LENGTH]
            each = torch.stack([log_probs.gather(2, a[..., None]).sum((1, 2)).exp() for a in answers])
            return {"accuracy": float(each.sum(0).mean()), "right answers above 0.02": float((each > 0.02).double().mean())}

        figures["before"].append(worth(models["student"]))
        figures["the teacher"].append(worth(models["teacher"]))
        pairs = [[a.tolist(), b.tolist()] for a, b in zip(*answers, strict=True)]
        data = tables.prompts(PROMPTS, SYMBOLS + 1, answers=pairs)
        for name, how in arms.items():
            more = {} if how is None else {"verifier": str(rule), "max_tokens": LENGTH + 1, "temperature": 1.0, **how}
            figures[name].append(worth(tables.train(
                everywhere() if how is None else "scope", models, data, tmp_path, steps=80, batch_size=PROMPTS,
                learning_rate=0.05, seed=seed, **more,
            )))  # fmt: skip

    def beats(a, b, figure):
        return lambda f: f[a][figure] > f[b][figure]

    told(
        "10 prompts of 3 symbols with two right answers each, 8 rollouts a prompt, 80 steps; exact, mean over seeds (range).",
        figures,
        lab.claim("It is right more often than opd", figures, beats("scope", "opd", "accuracy")),
        lab.claim("It is right more often than its teacher", figures, beats("scope", "the teacher", "accuracy")),
        lab.claim("It keeps more of the right answers than opd", figures, beats("scope", "opd", "right answers above 0.02")),
        lab.claim("Its weights by perplexity beat weights of 1 in accuracy", figures,
                  beats("scope", "scope, all weights 1", "accuracy"), expected=False),
    )  # fmt: skip
