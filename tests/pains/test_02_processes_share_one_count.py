"""Pain 2: the same fault across processes: each divided by its own count, so the direction changed and not only the size.

Here every process divides by the count of all (two real processes: tests/training/test_loop.py).
"""

import runpy
from pathlib import Path

import pytest
import torch

from tutelage.core.schedule import Progress
from tutelage.core.term import Term, Update, per_row
from tutelage.data.collate import Collate, split
from tutelage.signals.divergences import Jensen, kl_reverse
from tutelage.signals.match import Match, Targets
from tutelage.signals.readouts import Entropy
from tutelage.training.step import Plan, run_update
from tutelage.voices.says import Says

KIT = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
world, worst = KIT["world"], KIT["worst"]

UPDATES = {
    "tokens": Update((Term("j", Match(Jensen(0.5)), scale=0.7), Term("labels", Targets(), scale=0.3))),
    "rows": Update((Term("kl", Match(kl_reverse), weight=Entropy(), per=per_row),)),
}


def in_processes(world, update, parts, reduce_all=True):
    """The summed gradient of several processes, each with some rows, one after the other."""
    student = world.pair.student.model
    plan = Plan.of(update, {slot: Says(slot) for slot in world.ws.models})
    collate = Collate(world.tokenizer, 128)
    ranks = [[collate(rows) for rows in split(part, 1)] for part in parts]
    counts = []
    quiet = {"backward": lambda v: None, "inside": lambda f: f()}
    for batches in ranks:  # what each process would send
        run_update(plan, batches, world.ws, Progress("train", 0, 10), reduce=lambda t: counts.append(t.clone()) or t, **quiet)
    num = len(update.objective)
    first = [t for t in counts if len(t) == num][::2]
    student.zero_grad()
    for rank, batches in enumerate(ranks):
        seen = iter([sum(first) if reduce_all else first[rank]])
        run_update(
            plan, batches, world.ws, Progress("train", 0, 10), inside=lambda f: f(),
            backward=lambda v: v.backward(), reduce=lambda t, seen=seen: next(seen, t),
        )  # fmt: skip
    return {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", UPDATES)
def test_processes_add_up_to_one(name, world):
    whole, _ = world.gradients(UPDATES[name])
    parts = [world.records[:1], world.records[1:]]
    assert worst(in_processes(world, UPDATES[name], parts), whole) < 3e-6


def test_counts_of_their_own_would_turn_the_direction(world):
    whole, _ = world.gradients(UPDATES["tokens"])
    parts = [world.records[:1], world.records[1:]]
    faulty = in_processes(world, UPDATES["tokens"], parts, reduce_all=False)
    a, b = (torch.cat([g.flatten() for g in x.values()]) for x in (faulty, whole))
    assert float(torch.nn.functional.cosine_similarity(a, b, dim=0)) < 0.99
