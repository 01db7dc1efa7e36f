"""Hints open up prompts that a reward alone never solves, and a gated teacher beats one that is followed everywhere."""

import math
from dataclasses import replace

import pytest
import torch

from tutelage.core.catalog import build
from tutelage.core.seeds import generator
from tutelage.data.live import Live
from tutelage.data.steps.rescue import Rescue

pytestmark = pytest.mark.behaviour

PROMPTS, LENGTH, SYMBOLS, LIFT, SEEDS = 6, 4, 8, 2.3, 3


def knowing(tables, seed, solution):
    """A teacher that knows the next symbol behind 90 % of the right prefixes; behind a wrong one it says noise."""
    g = generator(seed, "teacher")
    noise = 3 * torch.randn(PROMPTS, LENGTH, SYMBOLS, generator=g)
    knows = torch.rand(PROMPTS, LENGTH, 1, generator=g) < 0.9
    sure = torch.where(knows, 4.0 * torch.nn.functional.one_hot(solution, SYMBOLS), noise)
    teacher = tables.ended("teacher", noise)
    body = teacher.model.base_model

    class Prefixed(type(body)):
        """The table, but where all symbols so far are right what is known takes its place."""

        def forward(self, input_ids, **ignored):
            said = super().forward(input_ids)
            size = self.table.shape[2]
            start = ((input_ids >= size) & (input_ids < size + PROMPTS)).int().argmax(1)
            prompt = input_ids.gather(1, start[:, None]).squeeze(1) - size
            fits = torch.ones(len(input_ids), dtype=torch.bool)
            for time in range(min(LENGTH, input_ids.shape[1] - 1)):
                place = (start + time).clamp_max(input_ids.shape[1] - 1)
                rows = fits.nonzero().squeeze(1)
                said.last_hidden_state[rows, place[rows], :SYMBOLS] = sure[prompt[rows], time]
                after = input_ids.gather(1, (place + 1).clamp_max(input_ids.shape[1] - 1)[:, None]).squeeze(1)
                fits &= after == solution[prompt, time]
            return said

    body.__class__ = Prefixed
    return teacher


def hinted(tables, recipe):
    """The recipe with the tables' way of hinting: the solution, one symbol a position, in front of the prompt."""
    stage = recipe.stages[0]
    steps = []
    for step in stage.source.steps:
        if isinstance(step, Rescue):
            ask, *grades = step.attempt
            step = replace(step, helped=(), attempt=(replace(ask, view=tables.hinted(SYMBOLS + 1, PROMPTS)), *grades))
        steps.append(step)
    return replace(recipe, stages=(replace(stage, source=Live(*steps, prompts="train")),))


def test_kepo(lab, tables, told, tmp_path):
    rule = tmp_path / "solves.py"
    rule.write_text("def solves(record):\n    return list(record.pieces[-1].ids) == list(record.fields['solution'])\n")
    arms = {
        "GRPO": {"tau": None, "injected": 0},
        "GRPO and distillation on every answer": {"tau": -math.inf, "injected": 0},
        "kepo": {},
    }
    figures = {"before": [], **{name: [] for name in arms}}
    for seed in range(SEEDS):
        g = generator(seed, "code")
        solution = torch.randint(SYMBOLS, (PROMPTS, LENGTH), generator=g)
        student = tables.ended("student", 0.1 * torch.randn(PROMPTS, LENGTH, SYMBOLS, generator=g), LIFT)
        models = {"student": student, "teacher": knowing(tables, seed, solution)}

        def success(model, solution=solution):
            said = tables.log_probs(model)[:, :LENGTH]
            return {"success without a hint": float(said.gather(2, solution[..., None]).sum((1, 2)).exp().mean())}

        figures["before"].append(success(student))
        data = tables.prompts(PROMPTS, SYMBOLS + 1, solution=[(*s, SYMBOLS) for s in solution.tolist()])
        for name, how in arms.items():
            made = build("kepo", {"verifier": str(rule), "max_tokens": LENGTH + 1, **how})
            figures[name].append(success(tables.train(
                hinted(tables, made), models, data, tmp_path, steps=75, batch_size=PROMPTS, learning_rate=0.2, seed=seed
            )))  # fmt: skip

    def beats(other):
        return lambda f: f["kepo"]["success without a hint"] > f[other]["success without a hint"]

    told(
        "6 prompts of 4 symbols out of 8, right if all are; a hint adds 2.3 to the right symbol's logit; the teacher knows nine "
        "of ten next symbols behind right ones and says noise behind wrong ones; 8 rollouts a prompt, 75 steps; the "
        "probability of success, exact, mean over seeds (range).",
        figures,
        lab.claim("Above 0.9", figures, lambda f: f["kepo"]["success without a hint"] > 0.9),
        lab.claim("Above the reward alone", figures, beats("GRPO")),
        lab.claim("Above the reward and distillation on every answer", figures, beats("GRPO and distillation on every answer")),
    )  # fmt: skip
