"""SCOPE, check by check of its card; check 7 is tests/behaviour/test_scope.py."""

from __future__ import annotations

import json
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tutelage
from tutelage.core.catalog import build
from tutelage.core.errors import NeedError, SettingError, UnknownName
from tutelage.core.record import Piece, Record
from tutelage.core.signal import Noted, Read
from tutelage.core.term import Term, Update
from tutelage.data.pipeline import run_steps
from tutelage.recipes.scope import scope
from tutelage.signals.grades import Grade
from tutelage.signals.match import Targets
from tutelage.signals.policy import K3, ScoreFunction
from tutelage.signals.pools import Alike, GroupNorm
from tutelage.signals.readouts import LogProb, gap
from tutelage.signals.scale import GroupSoftmax

TESTS = Path(__file__).parents[1]
TRAINING, CONTRACTS = (runpy.run_path(str(TESTS / name / "conftest.py")) for name in ("training", "contracts"))
world, worst, setting, Fixed = TRAINING["world"], TRAINING["worst"], CONTRACTS["setting"], CONTRACTS["Fixed"]


RUNNING = runpy.run_path(str(TESTS / "running" / "conftest.py"))
teacher_folder, data_folder, new_run = (RUNNING[n] for n in ("teacher_folder", "data_folder", "new_run"))


def update(**arguments) -> Update:
    return build("scope", {"max_tokens": 6, "rollouts": 2, **arguments}).stages[0].updates[0]


def rollouts(world, right, log_prob=-2.0):
    """Rows with exact ids, a grade each and the writer's own log-probabilities."""
    rows = []
    for i, (record, grade) in enumerate(zip(world.records, right, strict=True)):
        ids = tuple(5 + (3 * i + k) % 20 for k in range(2 + i))
        own = log_prob if isinstance(log_prob, tuple) else (log_prob,) * len(world.records)
        piece = Piece("", "assistant", "student", "answer", True, ids, {"log_prob": (own[i],) * len(ids), "drawn": (own[i],) * len(ids)}, "eos")
        rows.append(Record(record.id, (record.pieces[0], piece), {}, {"right": float(grade)}, f"g{i // 2}"))
    return rows


def constant_teacher(world):
    """The teacher as one that finds every token as likely."""
    with torch.no_grad():
        for p in world.pair.teacher.model.parameters():
            p.zero_()


@pytest.mark.parametrize("correction", ["k3", "score"])
def test_1_all_wrong_and_as_likely_to_the_teacher_is_plain_opd(correction, world):
    constant_teacher(world)
    rows = rollouts(world, [0] * 5)
    want, told = world.gradients(Update((Term("opd", {"k3": K3(), "score": ScoreFunction(gap())}[correction]),)), rows=rows)
    got, same = world.gradients(update(correction=correction), rows=rows)
    assert worst(got, want) < 2e-6 and same.tallies["correction"].mean == pytest.approx(told.loss, rel=1e-5)


def test_1_all_right_and_as_likely_to_the_student_is_fine_tuning_on_its_own_answers(world):
    rows = rollouts(world, [1] * 5)
    want, told = world.gradients(Update((Term("labels", Targets()),)), rows=rows)
    got, same = world.gradients(update(), rows=rows)
    assert worst(got, want) < 2e-6 and same.tallies["own"].mean == pytest.approx(told.loss, rel=1e-5)


@pytest.fixture
def weights(setting):
    """Group softmax weights of given values."""

    def make(values, among, group, temperature=1.0):
        s = setting(num_units=6, num_rows=len(values))
        notes = {"rows.x": torch.tensor(values, dtype=torch.float64), "rows.among": torch.tensor(among, dtype=torch.float64)}
        batch = replace(s.batch, notes=notes, group=torch.tensor(group))
        ctx = s.context()
        ctx.batch = batch
        return ctx(GroupSoftmax(Noted("x", "rows"), Noted("among", "rows"), temperature))

    return make


def test_2_weights_sum_to_the_parts_count_a_single_row_has_1_and_the_temperature_has_its_limits(weights):
    x, among, group = [2.0, 0.5, 1.0, 3.0, -1.0], [1, 1, 0, 1, 1], [0, 0, 0, 1, 1]
    w = weights(x, among, group)
    assert float(w[:3].sum()) == pytest.approx(2) and float(w[3:].sum()) == pytest.approx(2) and w[2] == 0
    assert float(w[0]) == pytest.approx(2 / (1 + math.exp(-1.5)))
    assert weights([7.0, 800.0], [1, 0], [0, 0]).tolist() == [1, 0]
    assert weights(x, among, group, 1e9).tolist() == pytest.approx([1, 1, 0, 1, 1], abs=1e-6)
    assert weights(x, among, group, 1e-9).tolist() == pytest.approx([2, 0, 0, 2, 0])
    assert weights([1.0, 2.0], [0, 0], [0, 0]).tolist() == [0, 0]
    assert weights([1e5, -1e5], [1, 1], [0, 0]).tolist() == pytest.approx([2, 0])
    with pytest.raises(SettingError):
        GroupSoftmax(Noted("x", "rows"), Noted("among", "rows"), 0.0)


def term_weights(world, rows, which, **arguments):
    """What a row's weight is, read off the loss: its own tokens alone change."""
    made = update(**arguments)
    loss = made.objective[which].loss
    soft = next(s for s in walk(loss) if isinstance(s, GroupSoftmax))
    from tutelage.core.context import Context
    from tutelage.data.collate import Collate
    from tutelage.voices import Says

    batch = Collate(world.tokenizer, 128)(rows)
    with torch.no_grad():
        ctx = Context(batch, {"teacher": Says("teacher")}, {"teacher": frozenset({"next"})}, workspace=world.ws)
        return ctx(soft), ctx


def walk(signal):
    yield signal
    for child in signal.children():
        yield from walk(child)


def test_3_the_rarer_right_answer_and_the_wrong_one_the_teacher_believes_weigh_more(world):
    right, _ = term_weights(world, rollouts(world, [1, 1, 1, 1, 1], (-3.0, -1.0, -1.0, -4.0, -2.0)), 0)
    assert right[0] > right[1] and right[3] > right[2] and float(right[4]) == 1
    flipped, _ = term_weights(world, rollouts(world, [1, 1, 1, 1, 1], (-3.0, -1.0, -1.0, -4.0, -2.0)), 0, student_sign=-1)
    assert flipped[0] < flipped[1]
    rows = rollouts(world, [0] * 5)
    wrong, ctx = term_weights(world, rows, 1)
    nll = -ctx(LogProb(Read("teacher")))
    row = ctx.batch.units["tokens"].row
    mean = torch.stack([nll[row == r].mean() for r in range(5)])
    assert (wrong[0] > wrong[1]) == (mean[0] < mean[1]) and (wrong[2] > wrong[3]) == (mean[2] < mean[3])
    other, _ = term_weights(world, rows, 1, teacher_sign=1)
    assert (other[0] > other[1]) == (mean[0] > mean[1])
    with pytest.raises(SettingError, match="1 or -1"):
        scope(student_sign=0)


def test_4_a_longer_answer_of_the_same_log_probs_weighs_the_same(world):
    rows = rollouts(world, [1] * 5, (-3.0, -1.0, -2.0, -2.0, -2.0))
    piece = rows[0].pieces[1]
    longer = replace(piece, ids=piece.ids * 3, notes={k: v * 3 for k, v in piece.notes.items()})
    one, _ = term_weights(world, rows, 0)
    two, _ = term_weights(world, [replace(rows[0], pieces=(rows[0].pieces[0], longer)), *rows[1:]], 0)
    assert torch.allclose(one, two)


def test_5_the_teacher_moves_nothing_on_right_answers_nor_likelihood_on_wrong_ones(world):
    rows = rollouts(world, [1, 0, 1, 1, 1], (-3.0, -1.0, -1.0, -4.0, -2.0))
    grads, _ = world.gradients(update(), rows=rows)
    right = [r for r in rows if r.notes["right"]]
    alone, _ = world.gradients(replace(update(), objective=update().objective[:1]), rows=right)
    own, _ = world.gradients(replace(update(), objective=update().objective[:1]), rows=rows)
    assert worst(own, alone) < 2e-6, "the likelihood is of the right answers alone"
    every = rollouts(world, [1] * 5)
    before, _ = world.gradients(update(), rows=every)
    with torch.no_grad():
        world.pair.teacher.model.model.norm.weight *= 3
    after, _ = world.gradients(update(), rows=every)
    assert worst(after, before) == 0, "where all is right the teacher is without effect"
    assert worst(world.gradients(update(), rows=rows)[0], grads) > 1e-4


@pytest.mark.parametrize("right", [0, 1])
def test_6_an_empty_path_adds_nothing_and_the_loss_is_finite(right, world):
    grads, told = world.gradients(update(), rows=rollouts(world, [right] * 5))
    empty = "correction" if right else "own"
    assert math.isfinite(told.loss) and told.tallies[empty].count == 0 and all(bool(torch.isfinite(g).all()) for g in grads.values())
    assert told.loss == pytest.approx(told.tallies["own" if right else "correction"].mean)


def test_each_path_divides_by_its_own_tokens_however_small_a_weight_is(world):
    rows = rollouts(world, [1, 1, 0, 1, 0], (-90.0, -0.1, -1.0, -4.0, -2.0))
    _, told = world.gradients(update(weight_temperature=0.01), rows=rows)
    sizes = [2 + i for i in range(5)]
    assert told.tallies["own"].count == sizes[0] + sizes[1] + sizes[3] and told.tallies["correction"].count == sizes[2] + sizes[4]


def test_the_gradient_does_not_depend_on_micro_batches_and_the_weights_get_none(world):
    rows = rollouts(world, [1, 0, 1, 1, 0], (-3.0, -1.0, -1.0, -4.0, -2.0))
    want, told = world.gradients(update(), rows=rows)
    for how in ({"size": 2}, {"size": 2, "pack": True}, {"padding": "left"}):
        got, same = world.gradients(update(), rows=rows, **how)
        assert worst(got, want) < 2e-6 and same.loss == pytest.approx(told.loss, rel=1e-5)


def test_cut_answers_count_as_wrong(world):
    stage = build("scope", {"max_tokens": 2, "rollouts": 2, "verifier": "exact"}).stages[0]
    assert isinstance(stage.source.steps[1], Grade)
    done = list(run_steps(stage.source.steps, [replace(r, fields={"reference": ""}) for r in world.records], world.ws.within("t")))
    cut = [r for r in done if r.pieces[-1].stop == "length"]
    assert cut and all(r.notes["right"] == 0 for r in cut) and len(done) == 10
    with pytest.raises(UnknownName, match="'exact'"):
        scope(verifier="exakt")


def test_k3_is_unbiased_bounded_and_exact_in_value_and_gradient(setting):
    s = setting()
    got = s.context()(K3())
    q, p = s.log_q(), s.log_p()
    target = s.batch.units["tokens"].target[:, None]
    k = (p.gather(1, target) - q.gather(1, target)).squeeze(1)
    want = k.exp() - k - 1
    assert torch.allclose(got, want) and bool((got >= 0).all())
    for a, b in zip(*(torch.autograd.grad(x.sum(), (s.hidden, s.weight)) for x in (got, want)), strict=True):
        assert torch.allclose(a, b, atol=1e-10)
    # its mean over every token that may be sampled is the reverse KL
    every = (p.exp() - q.exp() - q.exp() * (p - q)).sum(-1)
    assert torch.allclose(every, (q.exp() * (q - p)).sum(-1), atol=1e-12)
    far = s.context()(K3(p=LogProb(Read("teacher")) + 1e4))
    assert bool(torch.isfinite(far).all()) and float(far.detach().max()) == pytest.approx(math.expm1(10) - 10)
    with pytest.raises(SettingError):
        K3(most=0)


def test_groups_without_variance_give_no_advantage_and_are_counted(setting):
    s = setting()
    s.batch.notes["rows.g"] = torch.tensor([0.1, 0.1, 0.3, 0.9], dtype=torch.float64)
    ctx = s.context()
    advantage = ctx(GroupNorm(Noted("g", "rows")))
    assert advantage[:2].tolist() == [0, 0] and advantage[2] < 0 < advantage[3]
    assert ctx(Alike(Noted("g", "rows"))).tolist() == [1, 1, 0, 0]
    thirds = replace(s.batch, notes={"rows.g": torch.tensor([0.1, 0.1, 0.1, 0.1])}, group=torch.tensor([0, 0, 0, 1]))
    alone = s.context()
    alone.batch = thirds
    assert alone(GroupNorm(Noted("g", "rows"))).tolist() == [0, 0, 0, 0] and alone(Alike(Noted("g", "rows"))).tolist() == [1] * 4
    for size in range(2, 30):  # whatever their mean's rounding
        many = setting(num_units=1, num_rows=size)
        same = many.context()
        same.batch = replace(many.batch, notes={"rows.g": torch.full((size,), 0.3)}, group=torch.zeros(size, dtype=torch.long))
        assert same(GroupNorm(Noted("g", "rows"))).tolist() == [0] * size
    assert {"right", "all alike"} == {name for name, _ in update().watch}
    with pytest.raises(NeedError, match="Ask"):
        alone.batch = replace(thirds, group=None)
        alone._memo.clear()
        alone(GroupSoftmax(Noted("g", "rows"), Noted("g", "rows")))


def test_a_run_on_procedural_tasks_graded_by_their_own_verifier(new_run):
    pytest.importorskip("reasoning_gym")
    table = new_run(recipe="scope", args={"max_tokens": 4, "rollouts": 2, "verifier": "task"}, evaluate__num_records=2)
    table["data"] = {
        "train": {"path": "tasks:chain_sum?max_terms=2", "chat": True, "limit": 6},
        "held_out": {"path": "tasks:chain_sum?max_terms=2&seed=1", "chat": True, "limit": 2},
    }
    table["models"]["student"] = {"load": table["models"]["teacher"]}
    table["train"] = {"steps": 2, "batch_size": 2, "max_length": 200}
    done = tutelage.run(table)
    rows = [json.loads(x) for x in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["right"] for r in rows] == [0, 0] and [r["all alike"] for r in rows] == [1, 1]
    ledger = done.evaluation["ledger"] if done.evaluation else json.loads((done.folder / "ledger.json").read_text())
    assert sum(ledger.get(f"grade right/{deed}", {"calls": 0})["calls"] for deed in ("graded", "unfinished")) == 8
