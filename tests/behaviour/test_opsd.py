"""A model that is told the solution teaches itself without it, steadier than a reward for the right answer does."""

import pytest
import torch

from tutelage.core.recipe import Recipe, Train
from tutelage.core.seeds import generator
from tutelage.core.signal import Noted
from tutelage.core.term import Term, Update
from tutelage.data.live import Live
from tutelage.data.steps.ask import Ask
from tutelage.signals.grades import Grade
from tutelage.signals.policy import ScoreFunction

pytestmark = pytest.mark.behaviour

PROMPTS, LENGTH, SYMBOLS, LIFT, SEEDS = 10, 4, 8, 2.5, 5


def world(seed):
    """Logits with a distractor at every position, and the solutions: the initial success is 3 %."""
    g = generator(seed, "self")
    solution = torch.randint(SYMBOLS, (PROMPTS, LENGTH), generator=g)
    distractor = (solution + 1 + torch.randint(SYMBOLS - 1, (PROMPTS, LENGTH), generator=g)) % SYMBOLS
    logits = 0.1 * torch.randn(PROMPTS, LENGTH, SYMBOLS, generator=g)
    for symbol, size in ((solution, 2.2), (distractor, 1.9)):
        logits.scatter_add_(2, symbol[..., None], torch.full((PROMPTS, LENGTH, 1), size))
    return logits, solution


def right(record):
    return float(record.pieces[-1].ids == tuple(record.fields["solution"]))


def reinforce():
    """The reward alone: 1 for a whole right answer."""
    source = Live(Ask("student", max_tokens=LENGTH), Grade(right, unfinished=None), prompts="train")
    return Recipe((Train("train", source, (Update((Term("policy", ScoreFunction(Noted("right", "rows"))),)),)),))


def test_opsd(lab, tables, told, tmp_path):
    arms = {
        "opsd, its start as teacher": {"decay": 1.0},
        "opsd, itself as it is as teacher": {"decay": 0.0},
        "the reward alone": None,
    }
    figures = {"before": [], "the teacher: the start, told the solution": [], **{name: [] for name in arms}}
    for seed in range(SEEDS):
        logits, solution = world(seed)
        hint = LIFT * torch.nn.functional.one_hot(solution, SYMBOLS)

        def success(log_probs, solution=solution):
            return {"success": float(log_probs.gather(2, solution[..., None]).sum((1, 2)).exp().mean())}

        figures["before"].append(success(logits.double().log_softmax(-1)))
        figures["the teacher: the start, told the solution"].append(success((logits + hint).double().log_softmax(-1)))
        data = tables.prompts(PROMPTS, SYMBOLS, solution=[tuple(s) for s in solution.tolist()])
        for name, how in arms.items():
            recipe = reinforce() if how is None else "opsd"
            more = {} if how is None else {"max_tokens": LENGTH, "temperature": 1.0, "top_p": 1.0, **how}
            student = tables.train(
                recipe, {"student": tables.table("student", logits, LIFT)}, data, tmp_path, steps=60, batch_size=PROMPTS,
                learning_rate=50.0, plain=True, seed=seed, views={"informed": tables.hinted(SYMBOLS, PROMPTS)}, **more,
            )  # fmt: skip
            figures[name].append(success(tables.log_probs(student)))

    _, teacher, ours, _, reward = figures

    def spread(name):
        values = [f["success"] for f in figures[name]]
        return max(values) - min(values)

    told(
        "10 prompts of 4 positions and 8 symbols with a distractor, one rollout a prompt, 60 plain gradient steps; the "
        "probability of the whole solution, exact, mean over seeds (range).",
        figures,
        lab.claim("More than half right", figures, lambda f: f[ours]["success"] > 0.5),
        lab.claim("Within a tenth of what the teacher gets right", figures, lambda f: f[ours]["success"] > 0.9 * f[teacher]["success"]),
        lab.Claim("A smaller spread over seeds than the reward alone", (spread(ours) < spread(reward),) * SEEDS),
    )  # fmt: skip
