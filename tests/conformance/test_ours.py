"""We pass every check that others are put through; the checks see what is wrong."""

from dataclasses import replace

import pytest
import torch
from benchmarks.conformance import head_checks, step_checks, tiny
from benchmarks.conformance.adapters.ours import Ours
from benchmarks.conformance.asked import Row, Stepped
from benchmarks.conformance.check import run

ALONE = [c for c in step_checks.CHECKS if "processes" not in c.name]  # two processes are in pains/02


@pytest.mark.parametrize("check", [*head_checks.CHECKS, *ALONE], ids=lambda check: check.name)
def test_we_pass(check):
    outcome = run(check, Ours())
    assert outcome.status == "pass", (outcome, check.bound)


class Wrong(Ours):
    """Ourselves with a fault."""

    def __init__(self, change):
        self.change = change

    def loss(self, asked):
        return super().loss(self.change(asked))


FAULTS = {
    "the other divergence": (0, lambda a: replace(a, beta=1.0)),
    "no temperature": (4, lambda a: replace(a, temperature=1.0)),
    "no bias": (5, lambda a: replace(a, bias=None)),
    "masked positions too": (6, lambda a: replace(a, labels=a.labels.clamp_min(0))),
    "no weights": (8, lambda a: replace(a, token_weights=None)),
    "rounded logits": (12, lambda a: replace(a, hidden=(a.hidden.float() * 1.02).bfloat16())),
    "no rest": (14, lambda a: replace(a, top_k=0)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_loss_is_seen(fault):
    number, change = FAULTS[fault]
    assert run(head_checks.CHECKS[number], Wrong(change)).status == "fail"


class OneTooLate(Ours):
    """A trainer whose labels mask the position that reads a token instead of the one that predicts it."""

    def step(self, scene):
        moved = tuple(Row((*r.prompt, r.answer[0]), (*r.answer[1:], 0)) for r in scene.rows)
        return replace(super().step(replace(scene, rows=moved)), rows=scene.rows)


class MeanOfMeans(Ours):
    """A trainer that averages the means of its micro-batches."""

    def step(self, scene):
        size = scene.micro_batch
        parts = [scene.rows[i : i + size] for i in range(0, len(scene.rows), size)]
        steps = [super(MeanOfMeans, self).step(replace(scene, rows=rows, micro_batch=len(rows))) for rows in parts]
        means = {n: torch.stack([s.gradients[n] for s in steps]).mean(0) for n in steps[0].gradients}
        return Stepped(means, scene.rows)


class Touched(Ours):
    """A trainer that leaves something in the teacher."""

    def step(self, scene):
        return replace(super().step(scene), teacher_touched=True)


@pytest.mark.parametrize(
    ("fault", "name", "seen"),
    [
        (OneTooLate, "What predicts an answer trains, and nothing else", "reading positions"),
        (MeanOfMeans, "Accumulation does not change the gradient", "a mean of micro-batch means"),
        (Touched, "The teacher rests and stays as it is", "touched"),
    ],
)
def test_a_fault_in_the_step_is_seen_and_named(fault, name, seen):
    check = next(c for c in step_checks.CHECKS if c.name == name)
    outcome = run(check, fault())
    assert outcome.status == "fail"
    assert seen in outcome.note


def test_rows_are_ragged():
    """Rows of one length would hide a mean of means."""
    assert len({len(row.answer) for row in tiny.rows()}) == len(tiny.rows())
