"""Pain 23: the teacher was queried and paid for, and its data was dropped before the loss.

Here a voice that nothing reads is not asked, one that is read is asked once a batch, and what it says moves the loss.
"""

import runpy
from pathlib import Path

import pytest

from tutelage.core.needs import needs
from tutelage.core.schedule import Progress
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update
from tutelage.data.collate import Collate, split
from tutelage.data.steps.ask import Ask
from tutelage.recipes.forward_kl import forward_kl
from tutelage.recipes.supervised import supervised
from tutelage.signals.divergences import kl_forward, kl_reverse
from tutelage.signals.match import Match
from tutelage.signals.readouts import Entropy
from tutelage.training.step import Plan, run_update
from tutelage.voices.blend import Blend
from tutelage.voices.says import Says

KIT = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
world, worst = KIT["world"], KIT["worst"]

ONE = forward_kl().stages[0].updates[0]


@pytest.fixture
def calls(world, new_causal):
    """Calls of each model's ``predict`` during an update, by slot and micro-batches."""
    world.ws.models["unread"] = new_causal("unread", tokenizer=world.tokenizer)
    counted = {}

    def count(slot, model):
        real = model.predict

        def predict(view, wants):
            counted[slot] = counted.get(slot, 0) + 1
            return real(view, wants)

        model.predict = predict

    for slot, model in world.ws.models.items():
        count(slot, model)

    def run(update, size=99, **voices):
        counted.clear()
        world.pair.student.model.requires_grad_(True)
        plan = Plan.of(update, {slot: Says(slot) for slot in world.ws.models} | voices)
        batches = [Collate(world.tokenizer, 128)(rows) for rows in split(world.records, size)]
        run_update(
            plan, batches, world.ws, Progress("t", 0, 1), backward=lambda v: v.backward(), reduce=lambda t: t, inside=lambda f: f()
        )
        return dict(counted)

    return run


def test_a_voice_that_nothing_reads_is_not_asked(calls):
    assert calls(supervised().stages[0].updates[0]) == {"student": 1}
    assert calls(ONE) == {"student": 1, "teacher": 1}


def test_however_many_read_it_is_asked_once_a_micro_batch(calls):
    terms = (Term("a", Match(kl_forward)), Term("b", Match(kl_reverse)), Term("c", Entropy(Read("teacher")) * Entropy()))
    assert calls(Update(terms), size=2) == {"student": 3, "teacher": 3}
    blend = Blend(("teacher", "unread"), (0.5, 0.5))
    assert calls(Update((Term("a", Match(kl_forward, p=Read("pool"))),)), pool=blend) == {"student": 1, "teacher": 1, "unread": 1}


def test_what_the_teacher_says_moves_the_gradient(world, new_causal):
    one, _ = world.gradients(ONE)
    world.ws.models["teacher"] = new_causal("other", seed=9, tokenizer=world.tokenizer)
    two, _ = world.gradients(ONE)
    assert worst(one, two) > 0.05


def test_the_cost_is_on_the_ledger(world):
    world.gradients(ONE)
    account = world.ws.ledger.get("teacher", "predict")
    assert account.calls == 1 and account.tokens > 0 and world.ws.ledger.get("unread", "predict").calls == 0


def test_notes_that_are_collected_reach_the_batch(world):
    """The sampler's log-probabilities, one a token, stand beside the units they belong to."""
    rows = list(Ask("student", max_tokens=5)(iter(world.records), world.ws))
    batch = Collate(world.tokenizer, 128)(rows)
    told = [x for r in rows for x in r.pieces[-1].notes["log_prob"]]
    assert batch.notes["tokens.log_prob"].tolist() == pytest.approx(told)


def test_needs_name_only_what_is_read():
    assert set(needs(supervised())) == {"student"}
    assert needs(forward_kl())["teacher"] == frozenset({"next"})
