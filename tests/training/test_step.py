"""One step's gradient: equal to plain autograd, and the same however rows are padded, packed, split or ordered."""

import pytest
import torch

from tutelage.core.errors import Diverged, NeedError
from tutelage.core.schedule import Linear
from tutelage.core.signal import Noted, Read, Still
from tutelage.core.term import Term, Update, kept, per_group, per_row, per_token, weighted
from tutelage.data.collate import Collate
from tutelage.signals.divergences import Jensen, kl_forward, kl_reverse
from tutelage.signals.match import Match, Targets, Top, squared_error
from tutelage.signals.picks import Above, TopShare
from tutelage.signals.policy import Clipped
from tutelage.signals.pools import GroupNorm, RowMean, RowSum
from tutelage.signals.preference import PairSigmoid
from tutelage.signals.readouts import Entropy, LogProb

UPDATES = {
    "forward kl": Update((Term("kl", Match(kl_forward)),)),
    "mixed, by schedule": Update((Term("j", Match(Jensen(0.5)), scale=Linear(0.3, 1)), Term("labels", Targets(), scale=0.7))),
    "top k": Update((Term("kl", Match(kl_forward, on=Top(8))),)),
    "per row": Update((Term("kl", Match(kl_reverse), per=per_row),)),
    "per group": Update((Term("kl", Match(kl_reverse), per=per_group),)),
    "weighted by entropy": Update((Term("kl", Match(kl_reverse), weight=Entropy(), per=weighted(per_token)),)),
    "kept where the gap is wide": Update((Term("kl", Match(kl_reverse), weight=Above(Match(kl_forward), 1.2), per=kept(per_token)),)),
    "hidden states": Update((Term("h", Match(squared_error, Read("student", "hidden.1"), Read("teacher", "hidden.2"))),)),
    "row coupled": Update((Term("r", RowSum(Match(kl_forward)) ** 2, per=per_row),)),
    "grpo": Update((Term("p", Clipped(GroupNorm(Noted("right", "rows")), against=LogProb()), per=per_row),)),
    "two terms of one head": Update((Term("a", Match(kl_forward)), Term("b", Match(kl_reverse), weight=Still(Entropy()), per=per_row))),
}


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("how", [{"padding": "left"}, {"pack": True}, {"size": 2}, {"size": 3, "pack": True}, {"size": 1}])
def test_gradient_does_not_depend_on_layout(name, how, world, difference):
    update = UPDATES[name]
    want, told = world.gradients(update)
    got, same = world.gradients(update, **how)
    assert difference(got, want) <= 1e-6 * (8 if name == "row coupled" else 2)
    assert same.loss == pytest.approx(told.loss, rel=1e-5)
    assert {n: t.mean for n, t in same.tallies.items()} == pytest.approx({n: t.mean for n, t in told.tallies.items()}, rel=1e-5)


def test_equals_plain_autograd_over_one_row_at_a_time(world, difference):
    got, told = world.gradients(UPDATES["forward kl"])
    student, teacher = world.pair.student.model, world.pair.teacher.model
    student.zero_grad()
    total, count = 0.0, 0
    for record in world.records:
        batch = Collate(world.tokenizer, 128)([record])
        view = batch.views["main"]
        ids = view.inputs["input_ids"]
        q = student(ids).logits[0].log_softmax(-1)[view.at]
        with torch.no_grad():
            p = teacher(ids).logits[0].log_softmax(-1)[view.at]
        total = total + (p.exp() * (p - q)).sum()
        count += len(view.at)
    (total / count).backward()
    assert difference(got, {n: p.grad for n, p in student.named_parameters()}) < 2e-6
    assert told.loss == pytest.approx(float(total.detach()) / count, rel=1e-5)


def test_order_of_rows_does_not_matter(world, difference):
    want, _ = world.gradients(UPDATES["forward kl"], size=2)
    got, _ = world.gradients(UPDATES["forward kl"], size=2, rows=world.records[::-1])
    assert difference(got, want) < 2e-6


def test_rows_without_a_trained_position_count_as_rows(world, difference):
    silent = world.row("z", "No answer", "")
    silent = type(silent)("z", silent.pieces[:1], {}, silent.notes, "g9")
    some, told = world.gradients(UPDATES["per row"])
    more, same = world.gradients(UPDATES["per row"], rows=[*world.records, silent])
    assert difference({n: g * 6 / 5 for n, g in more.items()}, some) < 2e-6
    assert same.tallies["kl"].count == told.tallies["kl"].count + 1


def test_an_empty_micro_batch_changes_nothing(world, difference):
    silent = type(world.records[0])("z", world.records[0].pieces[:1], {}, {"right": 0.0}, "g9")
    want, _ = world.gradients(UPDATES["forward kl"])
    got, _ = world.gradients(UPDATES["forward kl"], rows=[silent, *world.records], size=1)
    assert difference(got, want) < 2e-6


def test_denominators(world):
    """kept counts units of weight > 0, weighted sums weights, plain counts all."""
    units = sum(len(Collate(world.tokenizer, 128)([r]).units["tokens"]) for r in world.records)
    above = Above(Match(kl_forward), 1.2)
    outcomes = {}
    for name, per in (("all", per_token), ("kept", kept(per_token)), ("weighted", weighted(per_token))):
        _, told = world.gradients(Update((Term("kl", Match(kl_forward), weight=above * 2.0, per=per),)))
        outcomes[name] = told.tallies["kl"]
    assert outcomes["all"].count == units
    assert 0 < outcomes["kept"].count < units
    assert outcomes["weighted"].count == pytest.approx(2 * outcomes["kept"].count)
    assert outcomes["all"].sum == pytest.approx(outcomes["kept"].sum)


def test_batch_statistics_in_a_loss_refuse_a_split(world):
    update = Update((Term("kl", Match(kl_forward) * TopShare(0.5, by=Match(kl_forward))),))
    world.gradients(update)
    with pytest.raises(NeedError, match="micro_batch_size"):
        world.gradients(update, size=2)


@pytest.mark.parametrize("how", [{"size": 2}, {"size": 1, "padding": "left"}, {"size": 3, "pack": True}])
def test_batch_statistics_in_a_weight_are_those_of_the_whole_round(how, world, difference):
    """Also where a row's value, spread over its units, is ranked among all; and frozen voices are asked once."""
    pick = TopShare(0.4, by=Match(kl_forward) * RowMean(Entropy()) - 0.1 * Noted("right", "rows"))
    update = Update((Term("kl", Match(kl_reverse), weight=pick, per=kept(per_token)),))
    want, told = world.gradients(update)
    calls = world.ws.ledger.get("teacher", "predict").calls
    got, same = world.gradients(update, **how)
    assert difference(got, want) < 2e-6
    assert same.loss == pytest.approx(told.loss, rel=1e-5) and same.tallies["kl"].count == told.tallies["kl"].count
    parts = -(-len(world.records) // how["size"])
    assert calls == 1 and world.ws.ledger.get("teacher", "predict").calls <= 1 + parts + 1


def test_pairs_stay_together(world):
    pairs = [world.row(f"{i}{k}", "Pick", "yes" if k else "no", group=f"p{i}") for i in range(3) for k in range(2)]
    pairs = [type(r)(r.id, r.pieces, {}, {"right": float(r.id[1])}, r.group) for r in pairs]
    update = Update((Term("dpo", PairSigmoid(RowSum(LogProb())), per=per_row),))
    _, whole = world.gradients(update, rows=pairs)
    _, parts = world.gradients(update, rows=pairs, size=2)
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_before_anything_moves(world):
    with torch.no_grad():
        world.pair.student.model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match=r"step 1 of stage 'train', term kl.*records a, b") as caught:
        world.gradients(UPDATES["forward kl"])
    assert "last checkpoint is good" in str(caught.value)
