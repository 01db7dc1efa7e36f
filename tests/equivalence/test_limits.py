"""Each `Limits:` line of each recipe: at the limit two recipes give one gradient. A new line needs a test here."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.core import catalog
from tutelage.core.recipe import Generate, Train
from tutelage.core.record import Piece, Record
from tutelage.core.schedule import Progress
from tutelage.core.signal import Noted
from tutelage.core.term import Update, per_token, weighted
from tutelage.data.collate import Collate, by_group
from tutelage.data.pipeline import run_steps
from tutelage.data.steps.ask import Ask
from tutelage.signals.match import Targets

KIT = runpy.run_path(str(Path(__file__).parents[1] / "training" / "conftest.py"))
world, worst = KIT["world"], KIT["worst"]
TESTED: dict[tuple[str, str], str] = {}


def limit(recipe, line):
    """Says which line of which card a test is for."""

    def mark(test):
        TESTED[recipe, line] = test.__name__
        return test

    return mark


def trains(name, **arguments) -> list[Train]:
    return [s for s in catalog.build(name, arguments).stages if isinstance(s, Train)]


@pytest.fixture
def step(world):
    """Gradient and rows of one step of a stage, drawn from its own source."""
    world.ws.data["train"] = world.records
    world.ws.data["answers"] = world.records

    def take(stage, at=0):
        world.pair.student.model.requires_grad_(False).eval()
        with torch.no_grad():
            size = len(by_group(world.records))  # each group once: data sets of other names come in another order
            rows = stage.source.draw(Progress("train", at, 10), world.ws.within("train", at), size)
        assert rows
        grads, told = world.gradients(stage.updates[0], rows=rows)
        return grads, told, {(r.id, r.pieces[-1].ids or r.pieces[-1].content) for r in rows}

    return take


def same(one, other, tolerance=2e-6):
    assert one[2] == other[2], "the same rows with the same answers"
    assert worst(one[0], other[0]) < tolerance
    assert one[1].loss == pytest.approx(other[1].loss, rel=1e-5)


@limit("forward_kl", "label_share=1: supervised.")
def test_labels_alone(step):
    (one,), (other,) = trains("forward_kl", label_share=1.0), trains("supervised")
    same(step(one), step(other))
    assert worst(step(trains("forward_kl", label_share=0.5)[0])[0], step(other)[0]) > 0.01


@limit(
    "forward_kl",
    "temperature -> infinity: the squared distance of centred logits, divided by 2 and by the number of categories.",
)
def test_high_temperature():
    compare = trains("forward_kl", temperature=3000.0)[0].updates[0].objective[0].loss.compare
    g = torch.Generator().manual_seed(0)
    z, v = (torch.randn(5, 40, generator=g, dtype=torch.float64) for _ in range(2))
    z.requires_grad_()
    value = compare(z.log_softmax(-1), v.log_softmax(-1))
    centred = [x - x.mean(-1, keepdim=True) for x in (z, v)]
    want = (centred[0] - centred[1]).square().sum(-1) / 2 / 40
    assert torch.allclose(value, want, rtol=3e-3)
    (got,), (right,) = (torch.autograd.grad(x.sum(), z) for x in (value, want))
    assert float((got - right).abs().max()) < 3e-3 * float(right.abs().max())


@limit("jensen", "beta=0: forward_kl.")
def test_jensen_at_0(step):
    same(step(trains("jensen", beta=0.0)[0]), step(trains("forward_kl")[0]))


@limit("jensen", "beta=1: reverse_kl.")
def test_jensen_at_1(step):
    same(step(trains("jensen", beta=1.0)[0]), step(trains("reverse_kl")[0]))
    assert worst(step(trains("jensen", beta=0.5)[0])[0], step(trains("reverse_kl")[0])[0]) > 0.01


@limit("gkd", "student_share=0, beta=0: forward_kl.")
def test_gkd_on_data(step):
    for at in (0, 3):
        same(step(trains("gkd", student_share=0.0, beta=0.0)[0], at), step(trains("forward_kl")[0], at))


@limit("gkd", "student_share=1, beta=1, temperature=1: opd.")
@limit("opd", "is gkd with student_share=1 and beta=1.")
def test_gkd_on_its_own_answers(step):
    shared = {"max_tokens": 6, "temperature": 1.0}
    for at in (0, 3):
        one = step(trains("gkd", student_share=1.0, beta=1.0, **shared)[0], at)
        same(one, step(trains("opd", **shared)[0], at))
        assert all(isinstance(answer, tuple) for _, answer in one[2])


@limit("reverse_kl", "on the student's own answers instead of data: opd.")
def test_reverse_kl_on_own_answers(step):
    opd, plain = trains("opd", max_tokens=6)[0], trains("reverse_kl")[0]
    same(step(replace(plain, source=opd.source)), step(opd))


@limit("supervised", "on text that the teacher wrote: seqkd.")
def test_supervised_on_the_teachers_text(step, world):
    generate, train = catalog.build("seqkd", {"max_tokens": 6}).stages
    assert isinstance(generate, Generate) and generate.into == train.source.name
    written = list(run_steps(generate.steps, world.records, world.ws.within("write")))
    assert all(r.pieces[-1].author == "teacher" for r in written)
    world.ws.data["answers"] = world.ws.data["train"] = written
    same(step(train), step(trains("supervised")[0]))


@limit("seqkd", "temperature=1 and many answers: the expected gradient is that of forward_kl on teacher text.")
def test_expected_gradient_of_teacher_samples(world):
    """The expectation over the next token, taken exactly: every token, weighted by the teacher's probability of it."""
    generate, train = catalog.build("seqkd", {"temperature": 1.0}).stages
    (ask,), (term,) = generate.steps, train.updates[0].objective
    assert isinstance(ask, Ask) and ask.who == "teacher" and ask.settings().temperature == 1 and term.loss == Targets()
    prompt = Piece("Go", "user")
    one = Record("one", (prompt, Piece("", "assistant", trains=True, ids=(7,))))
    view = Collate(world.tokenizer, 64)([one]).views["main"]
    with torch.no_grad():
        p = world.pair.teacher.predict(view, frozenset({"next"}))["next"].at(slice(None))[0].exp().tolist()
    every = [Record(f"{i}", (prompt, Piece("", "assistant", trains=True, ids=(i,))), notes={"p": x}) for i, x in enumerate(p)]
    expected, _ = world.gradients(Update((replace(term, weight=Noted("p", "rows"), per=weighted(per_token)),)), rows=every)
    exact, _ = world.gradients(trains("forward_kl")[0].updates[0], rows=[one])
    assert worst(expected, exact) < 1e-4


@limit("strong_to_weak", "without the first stage: opd.")
def test_second_stage(step):
    stage = trains("strong_to_weak", max_tokens=6)[1]
    same(step(stage), step(trains("opd", max_tokens=6)[0]))


@limit("strong_to_weak", "without the second, on the same text: forward_kl.")
def test_first_stage(step):
    stage = trains("strong_to_weak")[0]
    assert stage.source.name == "answers"
    same(step(stage), step(trains("forward_kl")[0]))


def test_every_line_of_every_card_has_a_test():
    lines = {(name, line) for name in catalog.names() for line in catalog.card(catalog.find(name)).limits}
    assert lines == set(TESTED)
    assert all(name in globals() for name in TESTED.values())
