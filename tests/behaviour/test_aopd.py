"""Where the teacher's favourite starts at a probability of 1e-4, policy gradient never finds it; imitation does."""

import pytest
import torch

from tutelage.core.recipe import Recipe, Train
from tutelage.core.seeds import generator
from tutelage.core.term import Term, Update
from tutelage.data.live import Live
from tutelage.data.steps.ask import Ask
from tutelage.signals.policy import ScoreFunction
from tutelage.signals.readouts import gap

pytestmark = pytest.mark.behaviour

STATES, SYMBOLS, HIDDEN, SEEDS = 9, 20, 3, 3


def world(seed):
    """Teacher and student over single symbols; in the first three states the teacher's mode is hidden from the student."""
    g = generator(seed, "hole")
    teacher = torch.randn(STATES, 1, SYMBOLS, generator=g)
    mode = torch.randint(SYMBOLS, (STATES,), generator=g)
    teacher.scatter_(2, mode[:, None, None], 0.0)
    others = teacher.exp().sum(2) - 1.0
    teacher.scatter_(2, mode[:, None, None], (0.7 / 0.3 * others).log()[..., None])
    student = torch.randn(STATES, 1, SYMBOLS, generator=g)
    for state in range(HIDDEN):
        wrong = (int(mode[state]) + 1 + int(torch.randint(SYMBOLS - 1, (1,), generator=g))) % SYMBOLS
        student[state, 0, wrong] = 5.0
        rest = float(student[state, 0].logsumexp(0))
        student[state, 0, mode[state]] = rest - 9.2
    return teacher, student, mode


def plain():
    """On-policy distillation by the sampled token alone."""
    source = Live(Ask("student", times=4, max_tokens=1), prompts="train")
    return Recipe((Train("train", source, (Update((Term("policy", ScoreFunction(gap())),)),)),))


def test_aopd(lab, tables, told, tmp_path):
    arms = {"opd, sampled token": None, "aopd": {}, "imitation everywhere (tau=1)": {"tau": 1.0}}
    figures = {"before": [], **{name: [] for name in arms}}
    for seed in range(SEEDS):
        teacher, student, mode = world(seed)
        models = {"teacher": tables.table("teacher", teacher), "student": tables.table("student", student)}

        def mass(model, mode=mode):
            log_probs = tables.log_probs(model)[:HIDDEN, 0]
            return {"mass on the hidden mode": float(log_probs.gather(1, mode[:HIDDEN, None]).exp().mean())}

        figures["before"].append(mass(models["student"]))
        # the recipe asks once a prompt: four copies of each prompt are the four samples a state
        data = [r for k in range(4) for r in tables.prompts(STATES, SYMBOLS)]
        data = [type(r)(f"{r.id}-{n}", r.pieces) for n, r in enumerate(data)]
        for name, how in arms.items():
            recipe, rows = (plain(), tables.prompts(STATES, SYMBOLS)) if how is None else ("aopd", data)
            more = {} if how is None else {"max_tokens": 1, "num_kept": 5, **how}
            figures[name].append(mass(tables.train(
                recipe, models, rows, tmp_path, steps=150, batch_size=len(rows), learning_rate=0.4 * STATES, plain=True, seed=seed, **more,
            )))  # fmt: skip
    told(
        "9 states of 20 symbols; in 3 of them the teacher's mode (0.7) starts at 1e-4 under the student; 4 samples a state, 150 "
        "plain gradient steps, k=5; exact, mean over seeds (range).",
        figures,
        lab.claim("More than half of the mass reaches the hidden mode", figures, lambda f: f["aopd"]["mass on the hidden mode"] > 0.5),
        lab.claim("More than by policy gradient alone", figures,
                  lambda f: f["aopd"]["mass on the hidden mode"] > f["opd, sampled token"]["mass on the hidden mode"]),
    )  # fmt: skip
